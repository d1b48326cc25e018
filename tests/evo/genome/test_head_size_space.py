from dataclasses import replace

import numpy as np
import pytest

from evo.errors import UserError
from evo.genome import SPACES
from evo.genome.bins import Bin
from evo.genome.cost import parameters
from evo.genome.enumeration import enumerate_space
from evo.genome.head_size_space import HeadSizeSpace
from evo.genome.space import Space
from evo.genome.subnet import Dimensions, Subnet
from tests.support.architectures import GROUPED, is_member, random_order, share

ORDER = random_order(GROUPED.dimensions)
OWN = GROUPED.head_size


def space_of(name, sizes, in_bin="fit", bin=None):
    bin = bin or share(GROUPED, 0.3, 0.33)
    return HeadSizeSpace(name, GROUPED, ORDER, bin, in_bin, head_sizes=sizes)


@pytest.mark.parametrize("in_bin", ["fit", "reject"])
@pytest.mark.parametrize("name", SPACES)
def test_every_operator_stays_in_the_space_of_one_of_the_sizes(name, in_bin):
    """The parts judge what the whole proposes; each size comes from each operator."""
    space, rng = space_of(name, [8, 2, 4], in_bin), np.random.default_rng(0)
    assert list(space.by_head_size) == [2, 4, None]

    def check(subnet):
        assert is_member(space.by_head_size[subnet.head_size], subnet)
        assert parameters(GROUPED, subnet.widths) in space.bin
        return subnet.head_size

    parents = [space.sample(rng) for _ in range(30)]
    assert {check(one) for one in parents} == {2, 4, None}
    resized = 0
    for parent in parents * 3:
        resized += check(space.mutate(parent, rng)) != parent.head_size
    assert 5 < resized < 35  # of 90, a fifth
    first, second = (next(p for p in parents if p.head_size == size) for size in (2, None))
    assert {check(space.crossover(first, second, rng)) for _ in range(20)} == {2, None}
    assert check(space.varied(first, lambda genes, *_, **__: genes, rng)) == 2


def test_one_size_is_the_space_of_a_teacher_with_such_heads():
    """Also the teacher's own, which is then a plain space but for the draw of the size."""
    for size in (4, OWN):
        space = space_of("fine-layerwise", [size])
        plain = Space(space.name, replace(GROUPED, head_size=size), ORDER, space.bin)
        rng, other = np.random.default_rng(1), np.random.default_rng(1)
        other.integers(1)
        expected = plain.sample(other)
        named = None if size == OWN else size
        assert space.sample(rng).id == replace(expected, head_size=named).id


def test_a_parent_of_another_size_gets_the_nearest():
    space, rng = space_of("coarse-uniform", [2, 4]), np.random.default_rng(2)
    full = Subnet.full(GROUPED.dimensions)
    assert space.varied(full, lambda genes, *_, **__: genes, rng).head_size == 4
    small = replace(full, head_size=1)
    assert space.varied(small, lambda genes, *_, **__: genes, rng).head_size == 2


def test_sizes_that_cannot_reach_the_bin_are_left_out():
    most = parameters(GROUPED, replace(GROUPED.full_widths, head_size=4))
    above = Bin("above", most + 1, most + 2000)
    assert list(space_of("coarse-layerwise", [4, 8], bin=above).by_head_size) == [None]
    with pytest.raises(UserError, match=f"with heads of 4 channels, no subnet.*to {most:,} param"):
        space_of("coarse-layerwise", [2, 4], bin=above)


@pytest.mark.parametrize("name", SPACES)
def test_the_list_of_all_candidates_is_that_of_each_size(name):
    tiny = replace(GROUPED, dimensions=Dimensions(2, 5, 2, 3), head_size=4)
    bin, order = share(tiny, 0.5, 0.6), random_order(tiny.dimensions)
    space = HeadSizeSpace(name, tiny, order, bin, head_sizes=[2, 4])
    every = enumerate_space(space, 100_000)
    expected = {}
    for size in (2, 4):
        part = enumerate_space(Space(name, replace(tiny, head_size=size), order, bin), 100_000)
        assert part
        for genome in part.values():
            subnet = Subnet.unpack(genome, tiny.dimensions)
            subnet = replace(subnet, head_size=size if size == 2 else None)
            expected[subnet.id] = subnet.pack()
    assert every == expected
    assert enumerate_space(space, len(expected) - 1) is None
    rng = np.random.default_rng(3)
    assert {space.sample(rng).id for _ in range(50)} <= set(expected)
