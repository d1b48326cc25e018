from __future__ import annotations

import numpy as np
import pytest

from training.data.permutation import permuted


@pytest.mark.parametrize("size", [*range(1, 40), 99, 100, 101, 4096, 10_007])
def test_every_number_is_somewhere(size: int) -> None:
    order = permuted(np.arange(size), size, (3, size))
    assert sorted(order.tolist()) == list(range(size))


def test_a_place_is_computed_by_itself() -> None:
    order = permuted(np.arange(1000), 1000, (1,))
    for places in ([7], [999, 0, 500], [5, 5]):
        assert permuted(np.array(places), 1000, (1,)).tolist() == order[places].tolist()
    size = 10**15
    far = permuted(np.arange(size - 1000, size), size, (1,))
    assert len(set(far.tolist())) == 1000
    assert 0 <= far.min() < far.max() < size
    assert far.mean() / size == pytest.approx(0.5, abs=0.05)


def test_orders_of_other_keys_are_other_orders() -> None:
    keys = [(0,), (1,), (0, 1), (1, 0), (0, 0, 1), (2**32,), (2**64, 1)]
    orders = [permuted(np.arange(500), 500, key) for key in keys]
    for n, one in enumerate(orders):
        for other in orders[:n]:
            assert (one == other).sum() < 10


@pytest.mark.parametrize("size", [10, 64, 1000])
def test_orders_are_as_random_as_shuffled_lists(size: int) -> None:
    """What is first, how far neighbours come to lie, and how many rise, against numpy's."""
    count = 1000
    places = np.arange(size)
    ours = np.array([permuted(places, size, (seed,)) for seed in range(count)])
    rng = np.random.default_rng(0)
    theirs = np.array([rng.permutation(size) for _ in range(count)])
    for told in (
        lambda orders: orders[:, 0],
        lambda orders: orders[:, size // 2],
        lambda orders: np.abs(orders[:, 1] - orders[:, 0]),
        lambda orders: np.abs(np.diff(orders, axis=1)).mean(axis=1),
        lambda orders: (np.diff(orders, axis=1) > 0).mean(axis=1),
        lambda orders: (orders == places).sum(axis=1),
    ):
        one, other = told(ours).astype(float), told(theirs).astype(float)
        error = np.sqrt((one.var() + other.var()) / count)
        assert abs(one.mean() - other.mean()) < 4 * error
        assert one.std() == pytest.approx(other.std(), rel=0.2)
