import numpy as np

from benchmarks.spaces.operator_parts import PARTS
from benchmarks.spaces.orders_and_spaces import design, effects, searches


def test_the_design_is_orthogonal():
    """Also to what two parts do together: the products of two columns."""
    signs = np.array([[1 if part in one else -1 for part in PARTS] for one in design(tuple(PARTS))])
    assert np.array_equal(signs.T @ signs, 16 * np.eye(8, dtype=int))
    pairs = [signs[:, i] * signs[:, j] for i in range(8) for j in range(i)]
    assert not (np.array(pairs) @ signs).any()


def test_planted_effects_are_found():
    rng = np.random.default_rng(0)
    planted = dict(zip(PARTS, rng.normal(size=8), strict=True))
    rows = [
        {"seed": seed, "parts": parts, "nll": 4 + seed + sum(planted[one] for one in parts)
         + 0.1 * rng.standard_normal()}
        for seed in range(3) for parts in design(tuple(PARTS))
    ]  # fmt: skip
    for part, (effect, error) in effects(rows, "nll").items():
        assert abs(effect - planted[part]) < 4 * error
        assert 0.5 < error / (2 * 0.1 / np.sqrt(len(rows))) < 2


def test_no_search_is_done_twice():
    for experiment in ("criterion", "ablations", "orders"):
        keys = [one.key for one in searches(experiment)]
        assert len(keys) == len(set(keys))
