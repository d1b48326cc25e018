"""The scores of a train-off on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from evo.errors import UserError
from training.selection.rounds import Score
from training.selection.scores import FILE, Scores


def test_what_is_added_is_there_after_a_restart_to_the_last_bit(tmp_path: Path) -> None:
    third = Score(1e5 / 3)
    before = Scores(tmp_path)
    before.add(20, "b", third)
    before.add(3, "b", Score(None, "the loss is nan"))
    before.add(20, "a", Score(2.0))
    after = Scores(tmp_path)
    assert after.at(20, ["b", "c"]) == {"b": third}
    assert after.at(3, ["a", "b"]) == {"b": Score(None, "the loss is nan")}


def test_the_file_does_not_depend_on_the_order_in_which_units_end(tmp_path: Path) -> None:
    units = [(1, "a"), (1, "b"), (2, "a")]
    for name, order in (("one", units), ("two", reversed(units))):
        (tmp_path / name).mkdir()
        scores = Scores(tmp_path / name)
        for step, candidate in order:
            scores.add(step, candidate, Score(step / 3))
    assert (tmp_path / "one" / FILE).read_bytes() == (tmp_path / "two" / FILE).read_bytes()


@pytest.mark.parametrize("content", ["[[1,", "3", "[[1, 2]]"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError, match=r"scores\.json is damaged"):
        Scores(tmp_path)
