import numpy as np
import pytest

from benchmarks.operator_parts import BUILT_IN, PARTS, SpaceOfParts
from evo.operators import Genes, _swapped, mutated
from evo.space import SPACES, Space
from evo.subnet import Subnet
from tests.architectures import GROUPED, is_member, random_order, share

ORDER = random_order(GROUPED.dimensions)
BIN = share(GROUPED, 0.4, 0.44)


def half_kept(rows: int, size: int, swapped: int = 0) -> np.ndarray:
    """Keys that keep the first half, but for the last few of it in exchange for the very last."""
    keys = np.tile(np.arange(size, dtype=np.float32) / size * np.float32(0.49), (rows, 1))
    keys[:, size // 2 :] += 1
    if swapped:
        keys[:, size // 2 - swapped : size // 2] += 1
        keys[:, -swapped:] -= 1
    return keys


def genes(space: Space) -> Genes:
    return space._genes(space.sample(np.random.default_rng(0)), np.random.default_rng(1))


def kept_ranks(keys: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(keys.shape, bool)
    np.put_along_axis(mask, np.argsort(keys, axis=1)[:, :count], True, axis=1)
    return mask


def swaps(scale: float, swapped: int = 0, tries: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """How often each rank leaves and comes when 50 of 100 stay kept."""
    rng = np.random.default_rng(0)
    keys = half_kept(1, 100, swapped)
    before = kept_ranks(keys, 50)[0]
    after = np.array([kept_ranks(_swapped(keys, scale, rng), 50)[0] for _ in range(tries)])
    return (before & ~after).mean(0), (after & ~before).mean(0)


def test_swaps_are_at_the_border():
    leaving, coming = swaps(0.05)
    assert leaving[40:50].sum() > 0.8 * leaving.sum() > 0
    assert coming[50:60].sum() > 0.8 * coming.sum() > 0
    assert leaving[:25].sum() < 0.02 * leaving.sum()
    assert coming[75:].sum() < 0.02 * coming.sum()


def test_what_is_kept_against_the_order_is_the_likeliest_to_leave():
    leaving, coming = swaps(0.05, swapped=5)
    assert leaving[95:].mean() > leaving[:45].max()
    assert coming[45:50].mean() > coming[50:95].max()


def test_small_scales_swap_little():
    few, many = (swaps(scale)[0].sum() for scale in (0.01, 0.2))
    assert 0.2 < few < 1.5
    assert many > 3 * few


def test_nothing_to_swap_with():
    keys = np.full((3, 8), 0.2, np.float32)
    assert np.array_equal(_swapped(keys, 0.3, np.random.default_rng(0)), keys)


def test_steps_shrink_as_the_search_progresses():
    space = Space("fine-layerwise", GROUPED, ORDER, BIN)
    parent = genes(space)

    def change(progress: float) -> float:
        rng = np.random.default_rng(2)
        children = [
            mutated(parent, GROUPED, rng, fine=True, uniform=False, progress=progress)
            for _ in range(200)
        ]
        return float(
            np.mean([np.abs(one.plan.neurons - parent.plan.neurons).mean() for one in children])
        )

    assert change(1.0) < 0.5 * change(0.0)


@pytest.mark.parametrize("name", SPACES)
def test_the_benchmarks_parts_are_the_product(name):
    """All parts that are built in, together, propose what the space proposes."""
    spaces = Space(name, GROUPED, ORDER, BIN), SpaceOfParts(name, GROUPED, ORDER, BIN, BUILT_IN)
    found: list[list[str]] = []
    for space in spaces:
        rng = np.random.default_rng(3)
        ids = []
        for progress in np.linspace(0, 1, 12):
            first, second = space.sample(rng), space.sample(rng)
            child = space.mutate(first, rng, float(progress))
            ids += [first.id, second.id, child.id, space.crossover(child, second, rng).id]
        found.append(ids)
    assert found[0] == found[1]


@pytest.mark.parametrize("part", [None, *PARTS])
def test_every_part_alone_stays_in_the_space(part):
    parts = () if part is None else (part,)
    sensitivity = np.array([0.5, 0.1, 0.1, 0.2, 1.0])
    space = SpaceOfParts("fine-layerwise", GROUPED, ORDER, BIN, parts, sensitivity)
    rng = np.random.default_rng(4)
    proposals: list[Subnet] = []
    for _ in range(8):
        first, second = space.sample(rng), space.sample(rng)
        proposals += [first, space.mutate(first, rng, 0.5), space.crossover(first, second, rng)]
    assert all(is_member(space, one) for one in proposals)
