from dataclasses import replace

import numpy as np
import pytest

from evo.genome.operators.mutation import directions, mutated
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from tests.support.architectures import GROUPED, NEOX, any_cost, random_order, share

ORDER = random_order(GROUPED.dimensions)
BIN = share(GROUPED, 0.4, 0.44)
SENSITIVITY = np.array([0.5, 0.1, 0.2, 0.3, 1.0])


def prefix_error(space: Space, subnet: Subnet) -> float:
    """What share of the kept neurons are not among the first of the order."""
    ranks, kept = space.order.neurons[subnet.layers], subnet.neurons[subnet.layers]
    outside = kept & (ranks >= kept.sum(1, keepdims=True))
    return float(outside.sum() / kept.sum())


@pytest.mark.parametrize("name", ["fine-uniform", "fine-layerwise"])
def test_samples_are_near_the_prefix(name):
    """Some are the prefix itself, none is a random set; of those, about half would be outside."""
    space = Space(name, GROUPED, ORDER, BIN)
    rng = np.random.default_rng(0)
    errors = np.array([prefix_error(space, space.sample(rng)) for _ in range(100)])
    assert errors.max() < 0.35
    assert 0.005 < errors.mean() < 0.15
    assert (errors == 0).any()


def test_a_width_that_changes_takes_the_orders_next():
    """From a prefix, as long as nothing swaps, a mutation leads to one, but for neighbours."""
    space = Space("fine-uniform", NEOX, random_order(NEOX.dimensions), any_cost(NEOX))
    parent = Subnet(
        layers=np.ones(4, bool),
        channels=space.order.channels < 16,
        groups=space.order.groups < 2,
        neurons=space.order.neurons < 20,
    )
    rng = np.random.default_rng(1)

    def widened(genes, architecture, rng, *, fine, uniform):
        neurons = genes.plan.neurons + rng.integers(-15, 15)
        return replace(genes, plan=replace(genes.plan, neurons=neurons))

    for _ in range(50):
        child = space.varied(parent, widened, rng)
        count = child.widths.neurons[0]
        ranks = space.order.neurons[child.neurons].reshape(4, -1)
        assert ranks.max() < count + 3
        assert (ranks >= count).sum() <= 3 * 4


def test_directions_follow_sensitivity():
    rng = np.random.default_rng(0)
    up = np.mean([directions(SENSITIVITY, rng) > 0 for _ in range(4000)], axis=0)
    assert np.allclose(up, [0.675, 0.15, 0.325, 0.5, 0.85], atol=0.03)


def test_sensitive_layers_grow():
    """In mutations of one parent, against the same without."""
    parent = Space("coarse-layerwise", GROUPED, ORDER, BIN)
    genes = parent._genes(parent.sample(np.random.default_rng(0)), np.random.default_rng(1))
    genes = replace(genes, plan=replace(genes.plan, neurons=np.full(5, 32)))

    def mean_change(sensitivity: np.ndarray | None) -> np.ndarray:
        rng = np.random.default_rng(2)
        return np.mean(
            [
                mutated(
                    genes, GROUPED, rng, fine=False, uniform=False, sensitivity=sensitivity
                ).plan.neurons - 32
                for _ in range(1500)
            ],
            axis=0,
        )  # fmt: skip

    change = mean_change(SENSITIVITY)
    assert np.array_equal(np.argsort(change), np.argsort(SENSITIVITY))
    assert change[4] > 1
    assert change[1] < -1
    assert np.abs(mean_change(None)).max() < 0.5


@pytest.mark.parametrize("name", ["coarse-layerwise", "fine-layerwise"])
def test_samples_give_sensitive_layers_more_width(name):
    space = Space(name, GROUPED, replace(ORDER, sensitivity=SENSITIVITY), BIN)
    rng = np.random.default_rng(3)
    widths = np.zeros(5)
    for _ in range(400):  # of dropped layers too: which are kept is another matter
        neurons = space.sample(rng).neurons.sum(1)
        widths += neurons / neurons.sum()
    assert np.array_equal(np.argsort(widths), np.argsort(SENSITIVITY))
