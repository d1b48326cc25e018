from itertools import product

import numpy as np
import pytest

from evo.bins import Bin
from evo.cost import Architecture, Widths, parameters, prices
from evo.errors import UserError
from evo.fit import Plan, cost
from evo.reach import check_reachable, drawn, reach
from tests.architectures import ARCHITECTURES, GROUPED, NEOX, full_cost, share


def all_costs(architecture: Architecture, *, uniform: bool) -> np.ndarray:
    """Of every shape, by brute force: uniform ones, or any sums over layers."""
    d = architecture.dimensions
    costs = []
    for n in range(1, d.layers + 1):
        for channels in range(architecture.head_size, d.channels + 1):
            price = prices(architecture, channels)
            if uniform:
                pairs = product(range(n, d.groups * n + 1, n), range(n, d.neurons * n + 1, n))
            else:
                pairs = product(range(n, d.groups * n + 1), range(n, d.neurons * n + 1))
            costs += [price.total(n, groups, neurons) for groups, neurons in pairs]
    return np.array(costs)


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("name", ["neox", "norm-over-heads"])
def test_against_brute_force(name, uniform):
    architecture = ARCHITECTURES[name]
    costs = np.sort(all_costs(architecture, uniform=uniform))
    unique = np.unique(costs)
    assert unique[-1] == full_cost(architecture)
    gaps = unique[:-1][np.diff(unique) > 1]
    bins = [
        Bin("all", 1, int(unique[-1])),
        Bin("one", int(unique[50]), int(unique[50])),
        Bin("gap", int(gaps[7]) + 1, int(gaps[7]) + 1),
        Bin("low", 1, int(unique[0]) - 1),
        Bin("least", 1, int(unique[0])),
        Bin("high", int(unique[-1]) + 1, 2 * int(unique[-1])),
        share(architecture, 0.24, 0.26),
    ]
    for bin in bins:
        found = reach(architecture, bin, uniform=uniform)
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
    start = Plan(2, 16, 2 * every, 9 * every, rng.permutation(d.layers))
    for uniform, n in product((True, False), (1, 2, d.layers)):
        exact = parameters(architecture, Widths(11, (2,) * n, (9,) * n))
        bin = Bin("exact", exact, exact)
        for _ in range(5):
            plan = drawn(architecture, bin, start, rng, uniform=uniform)
            assert cost(architecture, plan) == exact
            assert (plan.depth == start.depth).all()
            assert plan.groups.min() >= 1
            assert plan.groups.max() <= d.groups
            assert plan.neurons.min() >= 1
            assert plan.neurons.max() <= d.neurons
            if uniform:
                assert len(set(plan.groups)) == len(set(plan.neurons)) == 1


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
        if prices(NEOX, channels).total(n, n * groups, n * neurons) in few
    )
    assert len(shapes) == ((costs >= 4000) & (costs <= 4008)).sum() > 3
    rng = np.random.default_rng(0)
    start = Plan(1, 8, np.ones(4, int), np.ones(4, int), np.arange(4))
    plans = [drawn(NEOX, few, start, rng, uniform=True) for _ in range(25 * len(shapes))]
    seen = [(p.layers, p.channels, int(p.groups[0]), int(p.neurons[0])) for p in plans]
    counts = np.array([seen.count(one) for one in shapes])
    assert counts.sum() == len(seen)
    chi_square = ((counts - 25) ** 2 / 25).sum()
    assert chi_square < len(shapes) + 4 * np.sqrt(2 * len(shapes))
