import dataclasses
import json

import numpy as np
import pytest

from evo.algorithms.base import Proposal
from evo.errors import UserError
from evo.genome.subnet import Subnet
from evo.search.history.journal import Asked, Journal
from evo.search.shard_score import ShardScore
from tests.support.architectures import NEOX

SUBNET = Subnet.full(NEOX.dimensions)


def scores(count: int) -> list[ShardScore]:
    rng = np.random.default_rng(0)
    return [ShardScore(tuple(rng.random(3)), 7, 0.1) for _ in range(count)]


def test_scores_survive_the_disk_and_go_with_the_generation(tmp_path):
    journal = Journal(tmp_path, 3)
    assert journal.scores() == {}
    first, second, third = scores(3)
    failed = dataclasses.replace(third, nll=(), tokens=0, failure='"NaN"\nin line 2, µ')
    first = dataclasses.replace(first, divergence=(0.1, 0.2, 0.3))
    journal.append({("c", 0): first, ("c", 1): second})
    journal.append({("d", 0): failed})
    expected = {("c", 0): first, ("c", 1): second, ("d", 0): failed}
    assert Journal(tmp_path, 3).scores() == expected
    assert Journal(tmp_path, 4).scores() == {}
    journal.remove()
    assert not list(tmp_path.iterdir())
    journal.remove()


@pytest.mark.parametrize("kept", [1, 20, -1])
def test_a_torn_last_line(tmp_path, kept):
    journal = Journal(tmp_path, 0)
    first, second, third = scores(3)
    journal.append({("c", 0): first})
    line = json.dumps({"candidate": "c", "shard": 1} | dataclasses.asdict(second)).encode()
    with journal.scores_file.open("ab") as file:
        file.write(line[:kept] if kept > 0 else line)
    resumed = Journal(tmp_path, 0)
    assert resumed.scores() == {("c", 0): first}
    resumed.mend()
    resumed.append({("c", 2): third})
    assert Journal(tmp_path, 0).scores() == {("c", 0): first, ("c", 2): third}


def test_nothing_but_a_torn_line(tmp_path):
    journal = Journal(tmp_path, 0)
    journal.scores_file.write_bytes(b'{"cand')
    journal.mend()
    assert journal.scores() == {}
    assert journal.scores_file.read_bytes() == b""


def test_what_was_asked_for_survives_the_disk_and_is_of_one_generation(tmp_path):
    journal = Journal(tmp_path, 3)
    assert journal.asked(NEOX.dimensions) is None
    asked = Asked({"state": 2**70}, [Proposal(SUBNET, "crossover", ("a", "b"))])
    journal.keep_asked(asked)
    found = Journal(tmp_path, 3).asked(NEOX.dimensions)
    assert found is not None
    assert found.rng == asked.rng
    (one,) = found.proposals
    assert (one.subnet.id, one.operator, one.parents) == (SUBNET.id, "crossover", ("a", "b"))
    assert Journal(tmp_path, 4).asked(NEOX.dimensions) is None
    journal.asked_file.rename(Journal(tmp_path, 4).asked_file)
    with pytest.raises(UserError, match=r"asked-000004\.json is damaged .*of generation 3"):
        Journal(tmp_path, 4).asked(NEOX.dimensions)
    journal.asked_file.write_text('{"generation": 3')
    with pytest.raises(UserError, match=r"asked-000003\.json is damaged"):
        journal.asked(NEOX.dimensions)
