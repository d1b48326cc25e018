from functools import cache
from itertools import product

import numpy as np
import pytest

from evo.genome import SPACES
from evo.genome.bins import Bin
from evo.genome.cost import PARAMETERS, Architecture
from evo.genome.enumeration import enumerate_space
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Dimensions, Subnet
from evo.genome.width_limits import NO_LIMITS, WidthLimits
from tests.support.architectures import COSTS, any_cost, is_member, random_order, share

WIDE = Architecture(Dimensions(2, 3, 2, 3), 5, 2, 1, 2, True, True, False, False, 2, 2)
DEEP = Architecture(Dimensions(3, 3, 1, 2), 5, 1, 2, 3, False, False, False, True, 1, 2)

LIMITS = WidthLimits(Dimensions(1, 1, 1, 2), Dimensions(2, 2, 1, 1))


@cache
def all_subnets(architecture: Architecture) -> dict[str, Subnet]:
    """From all masks there are, one subnet for each id."""
    d = architecture.dimensions
    found: dict[str, Subnet] = {}
    rows = (nonempty(d.groups), nonempty(d.neurons))
    every = [nonempty(d.layers), nonempty(d.channels), *rows * d.layers]
    for layers, channels, *masks in product(*every):
        subnet = Subnet(layers, channels, np.stack(masks[::2]), np.stack(masks[1::2]))
        found[subnet.id] = subnet
    return found


def nonempty(size: int) -> list[np.ndarray]:
    return [np.array(mask) for mask in product((False, True), repeat=size) if any(mask)]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(
    ("architecture", "low", "high", "cost", "limits"),
    [
        (WIDE, 0.3, 0.5, PARAMETERS, NO_LIMITS),
        (WIDE, 0.4, 0.8, COSTS[1], NO_LIMITS),
        (WIDE, 0.2, 0.8, COSTS[2], LIMITS),
        (DEEP, 0.0, 1.0, PARAMETERS, NO_LIMITS),
        (DEEP, 0.5, 0.7, COSTS[2], NO_LIMITS),
        (DEEP, 0.4, 0.9, PARAMETERS, LIMITS),
    ],
    ids=["wide-0.3", "wide-flops", "wide-kv-limits", "deep-any", "deep-kv", "deep-limits"],
)
def test_against_brute_force(architecture, low, high, cost, limits, name):
    bin = any_cost(architecture) if low == 0 else share(architecture, low, high, cost)
    space = Space(name, architecture, random_order(architecture.dimensions), bin, limits=limits)
    expected = {one.id for one in all_subnets(architecture).values() if is_member(space, one)}
    assert expected
    listed = enumerate_space(space, len(expected))
    assert listed is not None
    assert set(listed) == expected
    for candidate, genome in listed.items():
        assert Subnet.unpack(genome, architecture.dimensions).id == candidate
    assert enumerate_space(space, len(expected) - 1) is None


def test_large_spaces_are_given_up_at_once():
    architecture = Architecture(
        Dimensions(32, 4096, 32, 16384), 50432, 128, 1, 2, True, True, False, False, 2, 2
    )
    order = Order.by_index(architecture.dimensions)
    for name in SPACES:
        space = Space(name, architecture, order, Bin("b", 385_000_000, 426_000_000))
        assert enumerate_space(space, 50_000) is None


def test_sets_for_all_products_are_distinct():
    """A listed space names no candidate twice, in whatever way its layers are ordered."""
    for seed, name in product(range(3), SPACES):
        space = Space(name, DEEP, random_order(DEEP.dimensions, seed), share(DEEP, 0.5, 0.6))
        listed = enumerate_space(space, 10_000)
        assert listed
        subnets = [Subnet.unpack(one, DEEP.dimensions) for one in listed.values()]
        assert all(is_member(space, one) for one in subnets)
        assert len({one.id for one in subnets}) == len(subnets)
