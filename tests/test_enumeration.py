from functools import cache
from itertools import product

import numpy as np
import pytest

from evo.bins import Bin
from evo.cost import Architecture
from evo.enumeration import enumerate_space
from evo.order import Order
from evo.space import SPACES, Space
from evo.subnet import Dimensions, Subnet
from tests.architectures import any_cost, is_member, random_order, share

WIDE = Architecture(Dimensions(2, 3, 2, 3), 5, 2, 1, 2, True, True, False, False, 2, 2)
DEEP = Architecture(Dimensions(3, 3, 1, 2), 5, 1, 2, 3, False, False, False, True, 1, 2)


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
    ("architecture", "low", "high"),
    [(WIDE, 0.3, 0.5), (WIDE, 0.6, 0.8), (DEEP, 0.0, 1.0), (DEEP, 0.4, 0.6)],
    ids=["wide-0.3", "wide-0.6", "deep-any", "deep-0.4"],
)
def test_against_brute_force(architecture, low, high, name):
    bin = any_cost(architecture) if low == 0 else share(architecture, low, high)
    space = Space(name, architecture, random_order(architecture.dimensions), bin)
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
