import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest

from evo.algorithms.base import Proposal
from evo.errors import UserError
from evo.genome.subnet import Subnet
from evo.search.history import COLUMNS, Asked, History, Row, frame, perplexity
from evo.search.shard_score import ShardScore
from tests.support.architectures import NEOX

SUBNET = Subnet.full(NEOX.dimensions)


def row(candidate: str, generation: int, **changes: object) -> Row:
    values: dict = {
        "candidate": candidate,
        "generation": generation,
        "operator": "crossover",
        "parents": ("aa", "bb"),
        "params": 12345,
        "cost": 54321,
        "layers": 2,
        "channels": 16,
        "groups": (1, 3),
        "neurons": (7, 40),
        "fitness": 0.1 + 0.2,
        "nll": 1.2345678901234567,
        "perplexity": math.exp(1.2345678901234567),
        "tokens": 2**40,
        "seconds": 0.25,
        "status": "full",
        "reason": "",
        "genome": SUBNET.pack(),
    }
    return Row(**(values | changes))


FAILED = {
    "fitness": math.nan,
    "nll": math.nan,
    "perplexity": math.nan,
    "status": "failed",
    "reason": "shard 1: not a number",
    "parents": (),
}


def same(first: list[Row], second: list[Row]) -> bool:
    """Equal to the last bit; not a number equals itself."""
    return [repr(one) for one in first] == [repr(one) for one in second]


def test_rows_survive_the_disk(tmp_path):
    rows = [row("b", 0), row("c", 0, **FAILED), row("a", 0, nll=800.0, perplexity=math.inf)]
    History(tmp_path / "deep" / "search").fold(rows, {"generation": 1})
    read = History(tmp_path / "deep" / "search")
    assert same(read.rows, [rows[2], rows[0], rows[1]])
    assert read.state == {"generation": 1}
    for before, after in zip([rows[2], rows[0], rows[1]], read.rows, strict=True):
        for field in dataclasses.fields(Row):
            assert type(getattr(after, field.name)) is type(getattr(before, field.name)), field
        assert Subnet.unpack(after.genome, NEOX.dimensions).id == SUBNET.id


@pytest.mark.parametrize("changes", [FAILED, {"parents": ()}, {"parents": ("aa",)}])
def test_a_generation_all_alike(tmp_path, changes):
    """Columns of nothing but empty lists or missing numbers keep their meaning."""
    rows = [row(candidate, 0, **changes) for candidate in "abc"]
    History(tmp_path).fold(rows, {"generation": 1})
    assert same(History(tmp_path).rows, rows)


def test_canonical_order(tmp_path):
    history = History(tmp_path)
    history.fold([row("z", 0), row("m", 0)], {"generation": 1})
    history.fold([row("y", 1), row("a", 1)], {"generation": 2})
    order = [(one.generation, one.candidate) for one in History(tmp_path).rows]
    assert order == [(0, "m"), (0, "z"), (1, "a"), (1, "y")]
    table = pd.read_parquet(history.parquet)
    assert list(table.columns) == list(COLUMNS)
    assert table["groups"].iloc[0].tolist() == [1, 3]
    pd.testing.assert_frame_equal(
        frame(history.rows).drop(columns=["parents", "groups", "neurons"]),
        table.drop(columns=["parents", "groups", "neurons"]),
    )


def test_rows_newer_than_the_state_are_not_told(tmp_path):
    """As a kill between the table and the state leaves it."""
    history = History(tmp_path)
    history.fold([row("a", 0)], {"generation": 1})
    state = (tmp_path / "state.json").read_bytes()
    history.fold([row("b", 1)], {"generation": 2})
    (tmp_path / "state.json").write_bytes(state)
    resumed = History(tmp_path)
    assert [one.candidate for one in resumed.rows] == ["a", "b"]
    assert [one.candidate for one in resumed.completed()] == ["a"]
    resumed.fold([row("b", 1)], {"generation": 2})
    assert [one.candidate for one in History(tmp_path).rows] == ["a", "b"]


def test_a_first_generation_that_was_killed(tmp_path):
    History(tmp_path).fold([row("a", 0)], {"generation": 1})
    (tmp_path / "state.json").unlink()
    assert History(tmp_path).completed() == []
    assert History(tmp_path).state is None


def scores(count: int) -> list[ShardScore]:
    rng = np.random.default_rng(0)
    return [ShardScore(tuple(rng.random(3)), 7, 0.1) for _ in range(count)]


def test_journal(tmp_path):
    history = History(tmp_path)
    assert history.journal() == {}
    first, second, third = scores(3)
    failed = dataclasses.replace(third, nll=(), tokens=0, failure='"NaN"\nin line 2, µ')
    first = dataclasses.replace(first, divergence=(0.1, 0.2, 0.3))
    history.append({("c", 0): first, ("c", 1): second})
    history.append({("d", 0): failed})
    assert History(tmp_path).journal() == {("c", 0): first, ("c", 1): second, ("d", 0): failed}
    history.fold([row("c", 0)], {"generation": 1})
    assert History(tmp_path).journal() == {}


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line(tmp_path, kept):
    history = History(tmp_path)
    first, second, third = scores(3)
    history.append({("c", 0): first})
    line = json.dumps({"candidate": "c", "shard": 1} | dataclasses.asdict(second)).encode()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(line[:kept] if kept > 0 else line)
    resumed = History(tmp_path)
    assert resumed.journal() == {("c", 0): first}
    resumed.mend()
    resumed.append({("c", 2): third})
    assert History(tmp_path).journal() == {("c", 0): first, ("c", 2): third}


def test_a_journal_of_nothing_but_a_torn_line(tmp_path):
    (tmp_path / "journal.jsonl").write_bytes(b'{"cand')
    history = History(tmp_path)
    history.mend()
    assert history.journal() == {}
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


def test_nothing_half_written_stays(tmp_path):
    history = History(tmp_path)
    history.fold([row("a", 0)], {"generation": 1})
    before = history.parquet.read_bytes()
    with pytest.raises(TypeError):
        history.fold([row("b", 1)], {"generation": object()})
    assert (tmp_path / "state.json").read_text() == '{"generation": 1}'
    assert {path.name for path in tmp_path.iterdir()} == {
        "history.parquet",
        "state.json",
        "journal.jsonl",
    }
    assert before != history.parquet.read_bytes()
    assert [one.candidate for one in History(tmp_path).completed()] == ["a"]


def test_a_directory_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        History(tmp_path / "file" / "search")


def test_perplexity():
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(17)) == pytest.approx(17)
    assert perplexity(708.9) < math.inf
    assert perplexity(1e6) == math.inf


@pytest.mark.parametrize("name", ["history.parquet", "state.json"])
def test_a_damaged_file_is_one_line(tmp_path, name):
    (tmp_path / name).write_text("{damaged")
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        History(tmp_path)


def test_what_was_asked_for_survives_the_disk_and_is_of_one_generation(tmp_path):
    history = History(tmp_path)
    assert history.asked(3, NEOX.dimensions) is None
    asked = Asked(3, {"state": 2**70}, [Proposal(SUBNET, "crossover", ("a", "b"))])
    history.keep_asked(asked)
    found = History(tmp_path).asked(3, NEOX.dimensions)
    assert (found.generation, found.rng) == (3, asked.rng)
    (one,) = found.proposals
    assert (one.subnet.id, one.operator, one.parents) == (SUBNET.id, "crossover", ("a", "b"))
    assert history.asked(4, NEOX.dimensions) is None
    (tmp_path / "asked.json").write_text('{"generation": 3')
    with pytest.raises(UserError, match=r"asked\.json is damaged"):
        history.asked(3, NEOX.dimensions)
