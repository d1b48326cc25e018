"""What a model is told of candidates, and that a generation that it chose stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evo.algorithms.evolution import Evolution
from tests.evo.search.test_search import (
    SEQUENCES,
    TARGETS,
    WEIGHTS,
    generations,
    losses,
    rows_of,
    search_in,
    units_of,
)


def test_the_first_generations_observations_against_plain_arithmetic(tmp_path: Path) -> None:
    """What was dropped is compared, on what it was scored on, with what was scored in full."""
    search = search_in(tmp_path, "chosen")
    next(generations(search, np.random.default_rng(0)))
    strategy = search.strategy
    assert isinstance(strategy, Evolution)
    found = {one.subnet.id: one for one in strategy.observed}
    rows = {row.candidate: row for row in search.history.rows() if row.status != "failed"}
    assert set(found) == set(rows)
    all_losses = {name: losses(name) * WEIGHTS for name in rows}
    whole = [all_losses[name] for name, row in rows.items() if row.status == "full"]
    reference = np.mean(whole, axis=0)
    per_target = TARGETS * WEIGHTS.mean()
    estimates = {}
    for name, row in rows.items():
        count = row.tokens // TARGETS
        estimates[name] = (all_losses[name] - reference)[:count] + reference.mean()
    spread = np.mean([each.var(ddof=1) for each in estimates.values()])
    for name, one in found.items():
        seen = len(estimates[name])
        assert one.loss == pytest.approx(estimates[name].mean() / per_target)
        variance = spread / seen * (1 - seen / SEQUENCES) / per_target**2
        assert one.variance == pytest.approx(variance, abs=1e-15)
        if rows[name].status == "full":
            assert one.loss == pytest.approx(rows[name].fitness)
            assert one.variance == 0
    assert {row.status for row in rows.values()} == {"full", "screened"}


def test_they_are_near_what_a_candidate_loses_on_all_of_the_text(tmp_path: Path) -> None:
    """Also in later generations, which begin with harder sequences than the first."""
    search = search_in(tmp_path, "chosen")
    for _ in generations(search, np.random.default_rng(0)):
        pass
    strategy = search.strategy
    assert isinstance(strategy, Evolution)
    errors, deviations = [], []
    for one in strategy.observed:
        if one.variance:
            true = (losses(one.subnet.id) * WEIGHTS).sum() / (TARGETS * WEIGHTS.sum())
            errors.append(one.loss - true)
            deviations.append(one.variance**0.5)
    assert len(errors) > 15
    assert abs(np.mean(errors)) < np.mean(deviations)
    assert 0.3 < np.std(errors) / np.mean(deviations) < 3


def test_a_generation_that_was_begun_goes_on_although_the_model_would_choose_others(
    tmp_path: Path,
) -> None:
    whole = search_in(tmp_path / "whole", "chosen")
    for _ in generations(whole, np.random.default_rng(0)):
        pass
    search = search_in(tmp_path / "killed", "chosen")
    next(generations(search, np.random.default_rng(0)))
    asked = units_of(search.begin_generation())
    elsewhere = search_in(tmp_path / "killed", "chosen")
    strategy = elsewhere.strategy
    assert isinstance(strategy, Evolution)
    chooser, strategy.chooser = strategy.chooser, None
    assert units_of(elsewhere.begin_generation()) == asked
    strategy.chooser = chooser
    again = search_in(tmp_path / "killed", "chosen")
    for _ in generations(again, np.random.default_rng(1)):
        pass
    assert rows_of(again) == rows_of(whole)
