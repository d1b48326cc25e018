"""Successive halving by its arithmetic."""

from __future__ import annotations

from itertools import pairwise

import pytest

from evo.errors import UserError
from training.selection.rounds import Round, Score, plan_rounds, ranked, survivors


def test_each_round_doubles_the_steps_and_halves_the_finalists() -> None:
    assert plan_rounds(16, 80) == [Round(16, 10), Round(8, 20), Round(4, 40), Round(2, 80)]
    assert plan_rounds(2, 7) == [Round(2, 7)]


def test_an_odd_number_leaves_the_larger_half() -> None:
    assert [each.finalists for each in plan_rounds(11, 100)] == [11, 6, 3, 2]
    scores = {name: Score(float(number)) for number, name in enumerate("abc")}
    assert survivors(scores, {}) == ["a", "b"]


def test_a_loss_counts_as_if_half_of_its_last_fall_followed() -> None:
    before = {"a": Score(4.0), "b": Score(5.0), "c": Score(3.6)}
    scores = {"a": Score(3.5), "b": Score(3.75), "c": Score(3.5)}  # 3.25, 3.125, 3.45
    assert ranked(scores, {}) == ["a", "c", "b"]
    assert ranked(scores, before) == ["b", "a", "c"]


@pytest.mark.parametrize("finalists", range(2, 40))
def test_halving_by_scores_needs_the_planned_rounds(finalists: int) -> None:
    rounds = plan_rounds(finalists, 1000)
    standing = [f"{number:02}" for number in range(finalists)]
    for each in rounds:
        assert len(standing) == each.finalists
        scores = {name: Score(-float(name)) for name in standing}
        standing = survivors(scores, {})
    assert standing == [f"{finalists - 1:02}"]
    steps = [each.step for each in rounds]
    assert steps[-1] == 1000
    assert all(0 <= later - 2 * earlier <= 1 for earlier, later in pairwise(steps))


def test_too_few_steps_for_so_many_rounds() -> None:
    assert plan_rounds(16, 8)[0].step == 1
    with pytest.raises(UserError, match="7 steps for 4 rounds"):
        plan_rounds(16, 7)


def test_equal_scores_go_by_the_id_and_neither_by_order_nor_by_time() -> None:
    scores = {"d": Score(1.0), "b": Score(2.0), "c": Score(2.0), "a": Score(2.0)}
    assert ranked(scores, {}) == ["d", "a", "b", "c"]
    assert survivors(dict(reversed(scores.items())), {}) == ["d", "a"]


def test_one_that_diverged_never_goes_on() -> None:
    scores = {"a": Score(None, "nan"), "b": Score(-1.0), "c": Score(None, "nan"), "d": Score(None)}
    assert survivors(scores, {}) == ["b"]
    assert survivors(scores, {name: Score(1.0) for name in scores}) == ["b"]
    assert survivors({"a": Score(None)}, {}) == []
