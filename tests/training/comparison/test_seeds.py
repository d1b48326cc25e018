from __future__ import annotations

import numpy as np
import pytest

from training.comparison.seeds import ratio_interval


def test_one_pair_has_no_interval() -> None:
    found = ratio_interval(np.array([[3.0]]))
    assert found.kind is None
    assert (found.ratio, found.low, found.high) == pytest.approx((3.0, 3.0, 3.0))


def test_few_seeds_give_the_range() -> None:
    found = ratio_interval(np.array([[2.0, 4.0, 8.0], [1.0, 2.0, 4.0]]))
    assert found.kind == "min-max"
    assert found.ratio == pytest.approx(64 ** (1 / 6) * 8 ** (1 / 6))
    assert (found.low, found.high) == pytest.approx((1.0, 8.0))


def test_enough_seeds_give_a_bootstrap_that_covers_the_truth() -> None:
    """Of 200 experiments with a known ratio of 2; of 8 seeds a bootstrap is a little too narrow."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        ours, theirs = rng.normal(0.0, 0.2, 8), rng.normal(np.log(2), 0.2, 8)
        found = ratio_interval(np.exp(theirs[:, None] - ours[None, :]))
        assert found.kind == "bootstrap 95%"
        assert found.low < found.ratio < found.high
        covered += found.low <= 2 <= found.high
    assert 0.86 < covered / 200 < 0.98


def test_a_missing_pair_opens_the_bootstrap_below() -> None:
    ratios = np.full((5, 5), 2.0)
    ratios[3, 2] = 0.0
    found = ratio_interval(ratios)
    assert (found.ratio, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(2.0)
