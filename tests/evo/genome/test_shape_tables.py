from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from evo.errors import UserError
from evo.genome.bins import Bin
from evo.genome.cost import PARAMETERS, Architecture, Cost, Widths, parameters, unit_costs
from evo.genome.fit_to_bin import WidthPlan, cost_of
from evo.genome.shape_tables import check_reachable, count_shapes, drawn
from evo.genome.subnet import Dimensions
from evo.genome.width_limits import NO_LIMITS, WidthLimits
from tests.support.architectures import ARCHITECTURES, COSTS, GROUPED, NEOX, share

LIMITS = WidthLimits(Dimensions(1, 4, 2, 8), Dimensions(2, 11, 1, 9))


def all_costs(
    architecture: Architecture,
    *,
    uniform: bool,
    cost: Cost = PARAMETERS,
    limits: WidthLimits = NO_LIMITS,
) -> np.ndarray:
    """Of every shape, by brute force: uniform ones, or any sums over layers."""
    grid = limits.grid(architecture)
    costs = []
    for n, channels in product(grid.layers, grid.channels):
        unit_cost = cost.unit_costs(architecture, channels)
        sums = []
        for allowed in (grid.groups, grid.neurons):
            step = allowed.step * n if uniform else allowed.step
            sums.append(range(n * allowed[0], n * allowed[-1] + 1, step))
        costs += [unit_cost.total(n, groups, neurons) for groups, neurons in product(*sums)]
    return np.array(costs)


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize(
    ("name", "cost", "limits"),
    [
        ("neox", PARAMETERS, NO_LIMITS),
        ("norm-over-heads", PARAMETERS, NO_LIMITS),
        ("norm-over-heads", COSTS[1], NO_LIMITS),
        ("neox", COSTS[2], NO_LIMITS),
        ("neox", PARAMETERS, LIMITS),
        ("neox", COSTS[1], LIMITS),
        ("neox", COSTS[2], LIMITS),
    ],
)
def test_against_brute_force(name, cost, limits, uniform):
    architecture = ARCHITECTURES[name]
    costs = np.sort(all_costs(architecture, uniform=uniform, cost=cost, limits=limits))
    unique = np.unique(costs)
    if limits == NO_LIMITS:
        assert unique[-1] == cost.of(architecture, architecture.full_widths)
    gaps = unique[:-1][np.diff(unique) > 1]
    middle = int(unique[len(unique) // 2])
    bins = [
        Bin("all", 1, int(unique[-1])),
        Bin("one", middle, middle),
        Bin("gap", int(gaps[len(gaps) // 2]) + 1, int(gaps[len(gaps) // 2]) + 1),
        Bin("low", 1, int(unique[0]) - 1),
        Bin("least", 1, int(unique[0])),
        Bin("high", int(unique[-1]) + 1, 2 * int(unique[-1])),
        share(architecture, 0.24, 0.26),
    ]
    for bin in (replace(bin, cost=cost) for bin in bins):
        found = count_shapes(architecture, bin, uniform=uniform, limits=limits)
        below, above = costs[costs < bin.low], costs[costs > bin.high]
        assert found.inside == ((costs >= bin.low) & (costs <= bin.high)).sum()
        assert found.below == (below.max() if below.size else None)
        assert found.above == (above.min() if above.size else None)


def test_out_of_reach_is_refused_with_what_is_near():
    costs = np.unique(all_costs(NEOX, uniform=True))
    gap = int(np.diff(costs).argmax())
    low, high = int(costs[gap]), int(costs[gap + 1])
    reachable = f"from {costs[0]:,} to {costs[-1]:,} parameters"
    with pytest.raises(UserError, match=f"{reachable}, the nearest {low:,} and {high:,}$"):
        check_reachable(NEOX, Bin("gap", low + 1, high - 1), uniform=True)
    check_reachable(NEOX, Bin("low", low, low), uniform=True)
    check_reachable(NEOX, Bin("high", high, high), uniform=True)
    with pytest.raises(UserError, match=f"{reachable}$"):
        check_reachable(NEOX, Bin("b", 1, int(costs[0]) - 1), uniform=False)
    with pytest.raises(UserError, match=f"{reachable}$"):
        check_reachable(NEOX, Bin("b", int(costs[-1]) + 1, 10**9), uniform=False)


def test_limits_are_named_where_they_are_in_the_way():
    costs = np.unique(all_costs(NEOX, uniform=True, limits=LIMITS))
    below = Bin("b", 1, int(costs[0]) - 1)
    check_reachable(NEOX, below, uniform=True)
    problem = f"within --multiple-of and --floors is in the bin .* from {costs[0]:,} to"
    with pytest.raises(UserError, match=problem):
        check_reachable(NEOX, below, uniform=True, limits=LIMITS)


def test_the_cost_is_named():
    bin = Bin("b", 1, 2, Cost("kv-cache", 64))
    with pytest.raises(UserError, match=r"1 to 2 bytes of KV cache at length 64\): .* bytes of"):
        check_reachable(NEOX, bin, uniform=True)


def test_layers_of_their_own_reach_more():
    uniform = np.unique(all_costs(NEOX, uniform=True))
    layerwise = np.unique(all_costs(NEOX, uniform=False))
    only = int(np.setdiff1d(layerwise, uniform)[100])
    check_reachable(NEOX, Bin("only", only, only), uniform=False)
    with pytest.raises(UserError, match="the nearest"):
        check_reachable(NEOX, Bin("only", only, only), uniform=True)


@pytest.mark.parametrize("architecture", [NEOX, GROUPED])
def test_drawn_lands_in_a_bin_of_one_cost(architecture):
    d, rng = architecture.dimensions, np.random.default_rng(0)
    every = np.ones(d.layers, np.int64)
    start = WidthPlan(2, 16, 2 * every, 9 * every, rng.permutation(d.layers))
    for uniform, n in product((True, False), (1, 2, d.layers)):
        exact = parameters(architecture, Widths(11, (2,) * n, (9,) * n))
        bin = Bin("exact", exact, exact)
        for _ in range(5):
            plan = drawn(architecture, bin, start, rng, uniform=uniform)
            assert cost_of(architecture, PARAMETERS, plan) == exact
            assert (plan.depth == start.depth).all()
            assert plan.groups.min() >= 1
            assert plan.groups.max() <= d.groups
            assert plan.neurons.min() >= 1
            assert plan.neurons.max() <= d.neurons
            if uniform:
                assert len(set(plan.groups)) == len(set(plan.neurons)) == 1


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.kind)
def test_drawn_of_every_cost_within_limits(cost, uniform):
    costs = np.unique(all_costs(NEOX, uniform=uniform, cost=cost, limits=LIMITS))
    rng = np.random.default_rng(0)
    grid = LIMITS.grid(NEOX)
    start = WidthPlan(1, 8, np.full(4, 2), np.full(4, 16), rng.permutation(4))
    for exact in rng.choice(costs, 5):
        bin = Bin("exact", int(exact), int(exact), cost)
        plan = drawn(NEOX, bin, start, rng, uniform=uniform, limits=LIMITS)
        assert cost_of(NEOX, cost, plan) == exact
        assert plan.layers in grid.layers
        assert plan.channels in grid.channels
        assert set(plan.groups[plan.kept].tolist()) <= set(grid.groups)
        assert set(plan.neurons[plan.kept].tolist()) <= set(grid.neurons)


def test_drawn_is_even_over_shapes():
    costs = all_costs(NEOX, uniform=True)
    few = Bin("few", 4000, 4008)
    d = NEOX.dimensions
    shapes = sorted(
        (n, channels, groups, neurons)
        for n in range(1, d.layers + 1)
        for channels in range(8, d.channels + 1)
        for groups in range(1, d.groups + 1)
        for neurons in range(1, d.neurons + 1)
        if unit_costs(NEOX, channels).total(n, n * groups, n * neurons) in few
    )
    assert len(shapes) == ((costs >= 4000) & (costs <= 4008)).sum() > 3
    rng = np.random.default_rng(0)
    start = WidthPlan(1, 8, np.ones(4, int), np.ones(4, int), np.arange(4))
    plans = [drawn(NEOX, few, start, rng, uniform=True) for _ in range(25 * len(shapes))]
    seen = [(p.layers, p.channels, int(p.groups[0]), int(p.neurons[0])) for p in plans]
    counts = np.array([seen.count(one) for one in shapes])
    assert counts.sum() == len(seen)
    chi_square = ((counts - 25) ** 2 / 25).sum()
    assert chi_square < len(shapes) + 4 * np.sqrt(2 * len(shapes))
