from dataclasses import replace

import numpy as np
import pytest

from benchmarks.spaces.operator_parts import (
    BUILT_IN,
    PARTS,
    EvolutionOfParts,
    SpaceOfParts,
    swapped_at_the_border,
)
from evo.algorithms.base import Strategy
from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import Budget
from evo.genome import SPACES
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from tests.evo.algorithms.test_base import scored
from tests.support.architectures import GROUPED, is_member, random_order, share

ORDER = replace(random_order(GROUPED.dimensions), sensitivity=np.array([0.5, 0.1, 0.1, 0.2, 1.0]))
BIN = share(GROUPED, 0.4, 0.44)


def swaps(scale: float, swapped: int = 0, tries: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """How often each rank leaves and comes when 50 of 100 stay kept.

    At first it is the best 50, but for the last few of them in exchange for the very last ranks.
    """
    keys = np.arange(100, dtype=np.float32)[None] / 100 * np.float32(0.49)
    keys[:, 50:] += 1
    if swapped:
        keys[:, 50 - swapped : 50] += 1
        keys[:, -swapped:] -= 1

    def kept(keys: np.ndarray) -> np.ndarray:
        mask = np.zeros(100, bool)
        mask[np.argsort(keys[0])[:50]] = True
        return mask

    rng = np.random.default_rng(0)
    before = kept(keys)
    after = np.array([kept(swapped_at_the_border(keys, scale, rng)) for _ in range(tries)])
    return (before & ~after).mean(0), (after & ~before).mean(0)


def test_swaps_at_the_border():
    leaving, coming = swaps(0.05)
    assert leaving[40:50].sum() > 0.8 * leaving.sum() > 0
    assert coming[50:60].sum() > 0.8 * coming.sum() > 0
    assert leaving[:25].sum() < 0.02 * leaving.sum()
    assert coming[75:].sum() < 0.02 * coming.sum()
    leaving, coming = swaps(0.05, swapped=5)
    assert leaving[95:].mean() > leaving[:45].max()
    assert coming[45:50].mean() > coming[50:95].max()
    few, many = (swaps(scale)[0].sum() for scale in (0.01, 0.2))
    assert 0.2 < few < 1.5
    assert many > 3 * few


def test_nothing_to_swap_with():
    keys = np.full((3, 8), 0.2, np.float32)
    assert np.array_equal(swapped_at_the_border(keys, 0.3, np.random.default_rng(0)), keys)


@pytest.mark.parametrize("name", SPACES)
def test_the_parts_that_are_built_in_are_the_product(name):
    """Together they ask for what evolution in the space asks for."""
    budget = Budget(8, 4)
    spaces = Space(name, GROUPED, ORDER, BIN), SpaceOfParts(name, GROUPED, ORDER, BIN, BUILT_IN)
    asked: list[list[str]] = []
    for kind, space in zip((Evolution, EvolutionOfParts), spaces, strict=True):
        strategy: Strategy = kind(space, budget, 3)
        ids = []
        while proposals := strategy.ask():
            ids += [one.subnet.id for one in proposals]
            strategy.tell(scored(proposals))
        asked.append(ids)
    assert asked[0] == asked[1]
    assert len(asked[0]) == 40


@pytest.mark.parametrize("part", [None, *PARTS])
def test_every_part_alone_stays_in_the_space(part):
    parts = () if part is None else (part,)
    space = SpaceOfParts("fine-layerwise", GROUPED, ORDER, BIN, parts)
    space.progress = 0.5
    rng = np.random.default_rng(4)
    proposals: list[Subnet] = []
    for _ in range(8):
        first, second = space.sample(rng), space.sample(rng)
        proposals += [first, space.mutate(first, rng), space.crossover(first, second, rng)]
    assert all(is_member(space, one) for one in proposals)
