"""The parts of `benchmarks.search.rungs` that compute its figures."""

from itertools import combinations

import numpy as np
import pytest

from benchmarks.search.agreement import curve, fewest, kendall
from benchmarks.search.rungs_report import reached, trace, versus
from evo.search.history.row import COLUMNS, Row, Status


def row(generation: int, tokens: int, fitness: float, status: Status = "full") -> Row:
    told = {"generation": generation, "tokens": tokens, "fitness": fitness, "status": status}
    return Row(**dict.fromkeys(COLUMNS) | told)


ROWS = [
    row(0, 10, 5.0),
    row(0, 2, 3.0, "screened"),
    row(1, 10, 4.0),
    row(1, 10, 4.5),
    row(2, 2, 1.0, "screened"),
]


def test_kendall_counts_pairs():
    rng = np.random.default_rng(0)
    one, other = rng.random(9), rng.random(9)
    agreed = [(one[i] < one[j]) == (other[i] < other[j]) for i, j in combinations(range(9), 2)]
    assert kendall(one, other) == pytest.approx(2 * np.mean(agreed) - 1)
    assert kendall(one, one) == 1
    assert kendall(one, -one) == -1


def test_a_curve_compares_each_stretch_with_its_beginning():
    rng = np.random.default_rng(0)
    losses = rng.random((6, 9))
    assert list(curve(losses)) == [1, 2]
    of_one = [kendall(losses[:, begin], losses[:, begin : begin + 4].mean(1)) for begin in (0, 4)]
    assert curve(losses)[1] == pytest.approx(np.mean(of_one))
    assert curve(losses)[2] == kendall(losses[:, :2].mean(1), losses[:, :8].mean(1))


def test_text_without_noise_agrees_at_once_and_pure_noise_agrees_little():
    quality = np.linspace(3, 4, 50)[:, None]
    assert set(curve(np.tile(quality, (1, 64))).values()) == {1.0}
    noise = curve(quality * 1e-9 + np.random.default_rng(0).random((50, 64)))
    assert max(noise.values()) < 0.6


@pytest.mark.parametrize(
    ("curves", "size"),
    [
        ([{1: 0.9, 2: 0.96, 4: 0.97}], 2),
        ([{1: 0.96, 2: 0.94, 4: 0.97}], 4),  # a lucky one is not enough
        ([{1: 0.9, 2: 0.9, 4: 0.96}, {1: 0.9, 2: 0.96, 4: 0.97}, {1: 0.9, 2: 0.95, 4: 0.99}], 2),
    ],
)
def test_fewest_is_where_the_median_agrees_from_then_on(curves, size):
    assert fewest(curves) == size


def test_no_size_is_enough():
    with pytest.raises(ValueError, match="up to 2"):
        fewest([{1: 0.99, 2: 0.9}])


def test_a_trace_counts_all_tokens_and_only_full_scores():
    assert trace(ROWS) == [(2, 12, 5.0), (4, 32, 4.0), (5, 34, 4.0)]


@pytest.mark.parametrize(("target", "tokens"), [(6, 12), (4.5, 32), (4.0, 32), (3.9, None)])
def test_reached_at_the_end_of_a_generation(target, tokens):
    assert reached(trace(ROWS), target) == tokens


def test_shares_are_of_what_full_scoring_spent():
    full = {"trace": [(50, 100, 4.0), (100, 200, 3.0)], "fresh_nll": 3.2}
    rungs = {"trace": [(50, 10, 3.5), (100, 20, 3.03)], "fresh_nll": 3.36}
    figures = versus(rungs, full)
    assert figures == pytest.approx(
        {
            "equal": 4.0 / 3.03 - 1, "used": 0.1, "reached": None, "full_reached": 1.0, "near": 0.1,
            "full_near": 1.0, "worse": 0.01, "fresh": 0.05,
        }
    )  # fmt: skip
    other = versus(rungs, {**full, "trace": [(50, 12, 9.0), (100, 25, 3.333), (150, 200, 3.1)]})
    assert other["reached"] == 0.1
    assert other["equal"] == pytest.approx(0.1)
