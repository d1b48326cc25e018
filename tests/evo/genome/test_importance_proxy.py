import numpy as np
import pytest

from evo.genome.importance_proxy import Importance, Proxy
from evo.genome.subnet import Dimensions, Subnet
from tests.support.cuts import random_subnet

DIMENSIONS = Dimensions(layers=4, channels=6, groups=3, neurons=10)


def importance(seed: int = 0) -> Importance:
    rng = np.random.default_rng(seed)
    return Importance(*(rng.random(shape) for shape in ((4,), (6,), (4, 3), (4, 10))))


def reference(measured: Importance, subnet: Subnet) -> float:
    """By loops: what is kept of each kind, each divided by its mean, per unit there is."""
    layers = channels = groups = neurons = 0.0
    for index in range(4):
        if not subnet.layers[index]:
            continue
        layers += measured.layers[index] / measured.layers.mean() / 4
        for group in np.flatnonzero(subnet.groups[index]):
            groups += measured.groups[index, group] / measured.groups[index].mean() / 12
        for neuron in np.flatnonzero(subnet.neurons[index]):
            neurons += measured.neurons[index, neuron] / measured.neurons[index].mean() / 40
    for channel in np.flatnonzero(subnet.channels):
        channels += measured.channels[channel] / measured.channels.mean() / 6
    return -(layers + channels + groups + neurons) / 4


def test_equals_the_mean_normalised_sum_of_what_is_kept():
    measured = importance()
    proxy = Proxy(measured, 8)
    rng = np.random.default_rng(1)
    for _ in range(50):
        subnet = random_subnet(DIMENSIONS, rng, uniform=False)
        assert proxy.fitness(subnet) == pytest.approx(reference(measured, subnet), rel=1e-12)


def test_the_teacher_is_best_and_scales_do_not_matter():
    measured, full = importance(), Subnet.full(DIMENSIONS)
    scaled = Importance(
        measured.layers * 1e9, measured.channels, measured.groups * 1e-9, measured.neurons * 7
    )
    assert Proxy(measured, 8).fitness(full) == pytest.approx(-1)
    rng = np.random.default_rng(2)
    for _ in range(20):
        subnet = random_subnet(DIMENSIONS, rng, uniform=True)
        fitness = Proxy(measured, 8).fitness(subnet)
        assert -1 <= fitness < 0
        assert Proxy(scaled, 8).fitness(subnet) == pytest.approx(fitness, rel=1e-12)


def test_genes_of_dropped_layers_count_for_nothing():
    full = Subnet.full(DIMENSIONS)
    layers = np.array([True, False, True, True])
    without = Subnet(layers, full.channels, full.groups, full.neurons)
    groups = full.groups.copy()
    groups[1] = False
    other = Subnet(layers, full.channels, groups, full.neurons)
    assert other.id == without.id
    proxy = Proxy(importance(), 8)
    assert proxy.fitness(other) == proxy.fitness(without)


def test_a_harmful_layer_counts_for_nothing_and_no_importance_for_all_alike():
    full = Subnet.full(DIMENSIONS)
    harmful = Importance(np.array([-3.0, 1, 1, 2]), *(np.zeros(s) for s in (6, (4, 3), (4, 10))))
    proxy = Proxy(harmful, 8)
    assert proxy.fitness(full) == pytest.approx(-1)
    keep = np.array([False, True, True, True])
    without = Subnet(keep, full.channels, full.groups, full.neurons)
    assert proxy.fitness(without) == pytest.approx(-(1 + 1 + 0.75 + 0.75) / 4)


def test_half_a_head_counts_half():
    full = Subnet.full(DIMENSIONS)
    halved = Subnet(full.layers, full.channels, full.groups, full.neurons, head_size=4)
    assert Proxy(importance(), 8).fitness(halved) == pytest.approx(-(1 + 1 + 0.5 + 1) / 4)


def test_saved_importance_is_the_same(tmp_path):
    measured = importance()
    measured.save(tmp_path / "importance.npz")
    loaded = Importance.load(tmp_path / "importance.npz")
    for name, array in vars(measured).items():
        assert np.array_equal(getattr(loaded, name), array)
