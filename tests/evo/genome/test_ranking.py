from dataclasses import replace

import numpy as np

from evo.genome.ranking import Order
from evo.genome.subnet import Dimensions
from tests.support.architectures import random_order

DIMENSIONS = Dimensions(layers=3, channels=8, groups=4, neurons=10)


def test_by_index_is_as_stored():
    order = Order.by_index(DIMENSIONS)
    assert order.layers.tolist() == [0, 1, 2]
    assert order.channels.tolist() == list(range(8))
    assert order.groups.tolist() == [[0, 1, 2, 3]] * 3
    assert order.neurons.tolist() == [list(range(10))] * 3


def test_most_important_first_and_equals_as_stored():
    order = Order.by_importance(
        layers=np.array([1.0, 3.0, 2.0]),
        channels=np.array([0.0, 5.0, 5.0, 1.0]),
        groups=np.array([[1.0, 2.0], [2.0, 2.0], [4.0, 3.0]]),
        neurons=np.array([[0.5, -1.0, 0.7]] * 3),
    )
    assert order.layers.tolist() == [2, 0, 1]
    assert order.channels.tolist() == [3, 0, 1, 2]
    assert order.groups.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert order.neurons.tolist() == [[1, 2, 0]] * 3


def test_ranks_are_permutations():
    order = random_order(DIMENSIONS)
    for ranks in (order.layers, order.channels, *order.groups, *order.neurons):
        assert sorted(ranks) == list(range(len(ranks)))


def test_save_and_load(tmp_path):
    order = random_order(DIMENSIONS)
    order.save(tmp_path / "deep" / "order.npz")
    loaded = Order.load(tmp_path / "deep" / "order.npz")
    for name in ("layers", "channels", "groups", "neurons"):
        assert np.array_equal(getattr(order, name), getattr(loaded, name))
    assert loaded.sensitivity is None
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["order.npz"]


def test_sensitivity_is_saved_where_it_was_measured(tmp_path):
    sensitivity = np.arange(1.0, 1 + DIMENSIONS.layers)
    replace(random_order(DIMENSIONS), sensitivity=sensitivity).save(tmp_path / "order.npz")
    assert np.array_equal(Order.load(tmp_path / "order.npz").sensitivity, sensitivity)


def test_importance_that_is_no_number_is_not_ranked_first():
    order = Order.by_importance(
        layers=np.array([np.nan, 1.0]),
        channels=np.array([1.0]),
        groups=np.ones((2, 1)),
        neurons=np.ones((2, 1)),
    )
    assert order.layers.tolist() == [1, 0]
