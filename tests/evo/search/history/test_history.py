import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evo.errors import UserError
from evo.genome.subnet import Subnet
from evo.search.history.history import History
from evo.search.history.row import COLUMNS, Row, frame, perplexity
from evo.search.shard_score import ShardScore
from tests.support.architectures import NEOX
from tests.support.properties import result_or_refusal

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
        "head_size": 8,
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


def fold(directory: Path, rows: list[Row], state: dict) -> History:
    history = History(directory)
    history.fold(rows, state)
    history.flush()
    return history


def same(first: list[Row], second: list[Row]) -> bool:
    """Equal to the last bit; not a number equals itself."""
    return [repr(one) for one in first] == [repr(one) for one in second]


def test_rows_survive_the_disk(tmp_path):
    rows = [row("b", 0), row("c", 0, **FAILED), row("a", 0, nll=800.0, perplexity=math.inf)]
    fold(tmp_path / "deep" / "search", rows, {"generation": 1})
    read = History(tmp_path / "deep" / "search")
    assert same(read.rows(), [rows[2], rows[0], rows[1]])
    assert read.state == {"generation": 1}
    for before, after in zip([rows[2], rows[0], rows[1]], read.rows(), strict=True):
        for field in dataclasses.fields(Row):
            assert type(getattr(after, field.name)) is type(getattr(before, field.name)), field
        assert Subnet.unpack(after.genome, NEOX.dimensions).id == SUBNET.id


@pytest.mark.parametrize("changes", [FAILED, {"parents": ()}, {"parents": ("aa",)}])
def test_a_generation_all_alike(tmp_path, changes):
    """Columns of nothing but empty lists or missing numbers keep their meaning."""
    rows = [row(candidate, 0, **changes) for candidate in "abc"]
    fold(tmp_path, rows, {"generation": 1})
    assert same(History(tmp_path).rows(), rows)


def test_canonical_order(tmp_path):
    history = History(tmp_path)
    history.fold([row("z", 0), row("m", 0)], {"generation": 1})
    history.fold([row("y", 1), row("a", 1)], {"generation": 2})
    history.flush()
    order = [(one.generation, one.candidate) for one in History(tmp_path).rows()]
    assert order == [(0, "m"), (0, "z"), (1, "a"), (1, "y")]
    table = pd.read_parquet(history.parquet)
    assert list(table.columns) == list(COLUMNS)
    assert table["groups"].iloc[0].tolist() == [1, 3]
    pd.testing.assert_frame_equal(
        frame(history.rows()).drop(columns=["parents", "groups", "neurons"]),
        table.drop(columns=["parents", "groups", "neurons"]),
    )
    pd.testing.assert_frame_equal(
        history.frame(("candidate", "tokens")), table[["candidate", "tokens"]]
    )
    chosen = history.frame(("candidate", "generation")).iloc[[3, 0, 2]]
    assert same(history.rows(chosen), [history.rows()[place] for place in (3, 0, 2)])


def test_rows_newer_than_the_state_are_no_history(tmp_path):
    """As a kill between the part and the state leaves it."""
    fold(tmp_path, [row("a", 0)], {"generation": 1})
    state = (tmp_path / "state.json").read_bytes()
    fold(tmp_path, [row("b", 1)], {"generation": 2})
    (tmp_path / "state.json").write_bytes(state)
    resumed = History(tmp_path)
    assert len(pd.read_parquet(tmp_path / "history.parquet")) == 2
    assert [one.candidate for one in resumed.rows()] == ["a"]
    assert list(resumed.frame()["candidate"]) == ["a"]
    fold(tmp_path, [row("b", 1)], {"generation": 2})
    assert [one.candidate for one in History(tmp_path).rows()] == ["a", "b"]


def test_a_first_generation_that_was_killed(tmp_path):
    fold(tmp_path, [row("a", 0)], {"generation": 1})
    (tmp_path / "state.json").unlink()
    assert History(tmp_path).rows() == []
    assert History(tmp_path).state is None


def scores(count: int) -> list[ShardScore]:
    rng = np.random.default_rng(0)
    return [ShardScore(tuple(rng.random(3)), 7, 0.1) for _ in range(count)]


def test_a_part_is_written_once(tmp_path):
    history = fold(tmp_path, [row("a", 0)], {"generation": 1})
    before = (history.parquet / "000000.parquet").stat()
    fold(tmp_path, [row("b", 1)], {"generation": 2})
    assert (history.parquet / "000000.parquet").stat() == before


def test_another_thread_writes(tmp_path):
    history = History(tmp_path)
    scores_file = history.journal(0).scores_file
    history.journal(0).append({("a", 0): ShardScore((1.0,), 7, 0.1)})
    (tmp_path / "stale").write_text("")
    history.fold([row("a", 0)], {"generation": 1}, [tmp_path / "stale"])
    history.journal(1).append({("b", 0): ShardScore((1.0,), 7, 0.1)})  # the next one has begun
    history.flush()
    assert not scores_file.exists()
    assert not (tmp_path / "stale").exists()
    assert list(History(tmp_path).journal(1).scores()) == [("b", 0)]


def test_what_could_not_be_written_is_raised_by_the_next_fold(tmp_path):
    history = History(tmp_path)
    history.parquet.mkdir()
    (history.parquet / "000000.parquet").mkdir()  # in the way
    history.fold([row("a", 0)], {"generation": 1})
    for action in (history.flush, lambda: history.fold([row("b", 1)], {"generation": 2})):
        with pytest.raises(UserError, match=r"cannot write .*000000\.parquet"):
            action()
    assert not history.state_file.exists()


def test_a_missing_part_and_a_part_of_another_generation_are_named(tmp_path):
    history = fold(tmp_path, [row("a", 0)], {"generation": 1})
    fold(tmp_path, [row("b", 1)], {"generation": 2})
    first, second = (history.parquet / f"00000{n}.parquet" for n in (0, 1))
    second.rename(first)
    with pytest.raises(UserError, match=r"history\.parquet is damaged .*no part of generation 1"):
        History(tmp_path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=r"000000\.parquet is damaged .*of another generation"):
        History(tmp_path).frame()


def test_every_flipped_bit_of_a_part_is_found(tmp_path):
    history = fold(tmp_path, [row(name, 0) for name in "abc"], {"generation": 1})
    part = history.parquet / "000000.parquet"
    whole, expected = part.read_bytes(), repr(history.rows())
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole) * 8, 300, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        part.write_bytes(damaged)
        found = result_or_refusal(lambda: repr(History(tmp_path).rows()))
        assert found == expected or "is damaged" in str(found), place


def test_a_file_of_an_earlier_version_is_refused(tmp_path):
    frame([row("a", 0)]).to_parquet(tmp_path / "history.parquet")
    with pytest.raises(UserError, match="a file of an earlier version"):
        History(tmp_path)


def test_nothing_half_written_stays(tmp_path):
    history = fold(tmp_path, [row("a", 0)], {"generation": 1})
    with pytest.raises(TypeError):
        history.fold([row("b", 1)], {"generation": object()})
    assert (tmp_path / "state.json").read_text() == '{"generation": 1}'
    assert {path.name for path in tmp_path.iterdir()} == {"history.parquet", "state.json"}
    assert [one.candidate for one in History(tmp_path).rows()] == ["a"]


def test_a_directory_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        History(tmp_path / "file" / "search")


def test_perplexity():
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(17)) == pytest.approx(17)
    assert perplexity(708.9) < math.inf
    assert perplexity(1e6) == math.inf


@pytest.mark.parametrize("name", ["history.parquet/000000.parquet", "state.json"])
def test_a_damaged_file_is_one_line(tmp_path, name):
    fold(tmp_path, [row("a", 0)], {"generation": 1})
    (tmp_path / name).write_text("{damaged")
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        History(tmp_path).rows()
