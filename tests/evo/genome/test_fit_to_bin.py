from dataclasses import replace

import numpy as np
import pytest

from evo.genome.bins import Bin
from evo.genome.cost import PARAMETERS, Architecture, Cost, Widths, parameters
from evo.genome.fit_to_bin import WidthPlan, cost_of, fit, on_grid
from evo.genome.subnet import Dimensions
from evo.genome.width_limits import NO_LIMITS, WidthLimits
from tests.support.architectures import ARCHITECTURES, COSTS, full_cost, share

LIMITS = WidthLimits(Dimensions(1, 4, 1, 8), Dimensions(2, 10, 1, 9))


def cost(architecture: Architecture, plan: WidthPlan) -> int:
    return cost_of(architecture, PARAMETERS, plan)


def same(one: WidthPlan, other: WidthPlan) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def random_plan(
    architecture: Architecture, rng: np.random.Generator, *, uniform: bool
) -> WidthPlan:
    d = architecture.dimensions
    rows = 1 if uniform else d.layers
    every = np.ones(d.layers, np.int64)
    return WidthPlan(
        layers=int(rng.integers(1, d.layers + 1)),
        channels=int(rng.integers(architecture.head_size, d.channels + 1)),
        groups=rng.integers(1, d.groups + 1, rows) * every,
        neurons=rng.integers(1, d.neurons + 1, rows) * every,
        depth=rng.permutation(d.layers),
    )


def widths(plan: WidthPlan) -> Widths:
    kept = plan.depth < plan.layers
    return Widths(plan.channels, tuple(plan.groups[kept]), tuple(plan.neurons[kept]))


def shape(plan: WidthPlan) -> tuple[int, int, int, int]:
    kept = plan.kept
    groups, neurons = plan.groups[kept].sum(), plan.neurons[kept].sum()
    return plan.layers, plan.channels, int(groups), int(neurons)


def single_changes(architecture: Architecture, plan: WidthPlan, bin: Bin, *, uniform: bool) -> set:
    """By brute force: for each dimension the smallest change of it alone that lands in the bin."""
    d = architecture.dimensions
    kept = plan.kept
    layers, channels, groups, neurons = shape(plan)
    many = layers if uniform else 1
    in_bin = {
        "layers": [
            shape(replace(plan, layers=n))
            for n in range(1, d.layers + 1)
            if cost(architecture, replace(plan, layers=n)) in bin
        ],
        "channels": [(layers, n, groups, neurons) for n in
                     range(architecture.head_size, d.channels + 1)],
        "groups": [(layers, channels, n, neurons) for n in
                   range(layers, d.groups * layers + 1, many)],
        "neurons": [(layers, channels, groups, n) for n in
                    range(layers, d.neurons * layers + 1, many)],
    }  # fmt: skip
    assert kept.sum() == layers
    best = set()
    for axis, (name, shapes) in enumerate(in_bin.items()):
        if name != "layers":
            shapes = [one for one in shapes if cost_of_sums(architecture, one) in bin]
        if shapes:
            best.add(min(shapes, key=lambda one: abs(one[axis] - shape(plan)[axis])))
    return best


def cost_of_sums(architecture: Architecture, sums: tuple[int, int, int, int]) -> int:
    layers, channels, groups, neurons = sums
    filled = (groups - layers + 1,) + (1,) * (layers - 1)
    filled_neurons = (neurons - layers + 1,) + (1,) * (layers - 1)
    return parameters(architecture, Widths(channels, filled, filled_neurons))


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_smallest_change_of_one_dimension(name, uniform):
    architecture = ARCHITECTURES[name]
    rng = np.random.default_rng(1)
    bin = share(architecture, 0.35, 0.4)
    single = 0
    for _ in range(12):
        plan = random_plan(architecture, rng, uniform=uniform)
        expected = single_changes(architecture, plan, bin, uniform=uniform)
        fitted = [fit(architecture, bin, plan, rng, uniform=uniform) for _ in range(20)]
        assert all(parameters(architecture, widths(one)) in bin for one in fitted)
        if cost(architecture, plan) in bin:
            assert all(same(one, plan) for one in fitted)
        elif expected:
            single += 1
            assert {shape(one) for one in fitted} <= expected
            if len(expected) <= 2:
                assert {shape(one) for one in fitted} == expected
    assert single > 5


@pytest.mark.parametrize("uniform", [True, False])
def test_what_is_not_moved_stays_as_it_was(uniform):
    architecture = ARCHITECTURES["neox"]
    rng = np.random.default_rng(2)
    bin = share(architecture, 0.35, 0.4)
    for _ in range(30):
        plan = random_plan(architecture, rng, uniform=uniform)
        fitted = fit(architecture, bin, plan, rng, uniform=uniform)
        dropped = ~(plan.kept | fitted.kept)
        if not uniform:  # genes of dropped layers are kept as they are
            assert (fitted.groups[dropped] == plan.groups[dropped]).all()
            assert (fitted.neurons[dropped] == plan.neurons[dropped]).all()
        else:
            assert len(set(fitted.groups)) == len(set(fitted.neurons)) == 1
        for counts, most in ((fitted.groups, 4), (fitted.neurons, 40)):
            assert counts.min() >= 1
            assert counts.max() <= most


@pytest.mark.parametrize("uniform", [True, False])
def test_far_bins_are_reached_in_several_steps(uniform):
    architecture = ARCHITECTURES["grouped"]
    rng = np.random.default_rng(3)
    d = architecture.dimensions
    full = WidthPlan(d.layers, d.channels, np.full(5, 3), np.full(5, 64), np.arange(5))
    least = WidthPlan(1, 8, np.ones(5, int), np.ones(5, int), np.arange(5))
    top = full_cost(architecture)
    assert cost(architecture, full) == top
    small = Bin("small", 1, cost(architecture, least) + 150)
    for plan, bin in ((full, small), (least, Bin("large", top - 500, top))):
        fitted = [fit(architecture, bin, plan, rng, uniform=uniform) for _ in range(10)]
        assert any(fitted)
        assert all(cost(architecture, one) in bin for one in fitted if one is not None)


def test_no_way_in_is_said():
    architecture = ARCHITECTURES["neox"]
    rng = np.random.default_rng(4)
    full = full_cost(architecture)
    plan = random_plan(architecture, rng, uniform=True)
    assert fit(architecture, Bin("above", full + 1, full + 2), plan, rng, uniform=True) is None


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.kind)
def test_every_cost_and_limits(cost: Cost, uniform):
    """Where a bin is wide enough, all plans get in, on the grid; most by one change."""
    architecture = ARCHITECTURES["grouped"]
    rng = np.random.default_rng(5)
    bin = share(architecture, 0.3, 0.45, cost)
    for limits in (NO_LIMITS, LIMITS):
        grid = limits.grid(architecture)
        for _ in range(30):
            plan = random_plan(architecture, rng, uniform=uniform)
            fitted = fit(architecture, bin, plan, rng, uniform=uniform, limits=limits)
            assert fitted is not None
            assert cost.of(architecture, widths(fitted)) in bin
            assert fitted.layers in grid.layers
            assert fitted.channels in grid.channels
            assert set(fitted.groups.tolist()) <= set(grid.groups)
            assert set(fitted.neurons.tolist()) <= set(grid.neurons)
            if cost.kind == "kv-cache" and limits == NO_LIMITS:  # what is free is not moved
                assert fitted.channels == plan.channels
                assert (fitted.neurons == plan.neurons).all()


def test_on_grid_is_even_handed():
    """Between two widths, the nearer is the likelier: on average nothing changes."""
    architecture = ARCHITECTURES["neox"]
    rng = np.random.default_rng(6)
    grid = WidthLimits(Dimensions(1, 8, 1, 10), Dimensions(1, 1, 1, 15)).grid(architecture)
    assert (grid.channels, grid.neurons) == (range(8, 33, 8), range(20, 41, 10))
    plan = WidthPlan(2, 18, np.array([4, 1, 2, 3]), np.array([23, 5, 40, 39]), np.arange(4))
    moved = [on_grid(plan, grid, rng, uniform=False) for _ in range(400)]
    assert {one.channels for one in moved} == {16, 24}
    assert abs(np.mean([one.channels for one in moved]) - 18) < 0.7
    assert {one.layers for one in moved} == {2}
    assert all((one.groups == plan.groups).all() for one in moved)
    alike = replace(plan, neurons=np.full(4, 23))
    together = [on_grid(alike, grid, rng, uniform=True).neurons for _ in range(20)]
    assert {tuple(one.tolist()) for one in together} == {(20,) * 4, (30,) * 4}
    assert np.allclose(np.mean([one.neurons for one in moved], axis=0), [23, 20, 40, 39], atol=0.9)
