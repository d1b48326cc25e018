from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from evo.algorithms import one_plus_lambda
from evo.algorithms.one_plus_lambda import (
    OnePlusLambda,
    _between_dimensions,
    _between_layers,
    _kept_with_dropped,
    levels,
    switched,
)
from evo.algorithms.random_search import RandomSearch
from evo.algorithms.settings import Budget
from evo.genome import SPACES
from evo.genome.cost import parameters
from evo.genome.fit_to_bin import WidthPlan
from evo.genome.operators.rank_genes import Genes
from evo.genome.space import Space
from evo.genome.subnet import Widths
from evo.genome.width_limits import DIMENSIONS
from tests.evo.algorithms.test_base import fails_for_some, scored, space_of
from tests.evo.algorithms.test_evolution import Planted, best_of
from tests.support.architectures import (
    ARCHITECTURES,
    GROUPED,
    any_cost,
    is_member,
    random_order,
    share,
)


def test_offspring_of_the_best_so_far():
    strategy = OnePlusLambda(space_of("fine-uniform"), Budget(10, 5), 0)
    first = strategy.ask()
    assert {one.operator for one in first} == {"sample"}
    strategy.tell(scored(first, fails_for_some))
    while proposals := strategy.ask():
        assert strategy.best is not None
        assert {one.operator for one in proposals} == {"switch"}
        assert {one.parents for one in proposals} == {(strategy.best.subnet.id,)}
        strategy.tell(scored(proposals, fails_for_some))
    assert strategy.generation == 6


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_offspring_are_in_the_space_and_mostly_new(architecture, name):
    architecture = ARCHITECTURES[architecture]
    order = random_order(architecture.dimensions)
    rng = np.random.default_rng(0)
    space = Space(name, architecture, order, share(architecture, 0.5, 0.55))
    parents = [space.sample(rng) for _ in range(40)]
    offspring = [space.varied(parent, switched, rng) for parent in parents]
    assert all(is_member(space, one) for one in offspring)
    new = sum(one.id != parent.id for one, parent in zip(offspring, parents, strict=True))
    assert new > 20


def random_genes(name: str, rng: np.random.Generator) -> Genes:
    space = Space(name, GROUPED, random_order(GROUPED.dimensions), any_cost(GROUPED))
    return space._genes(space.sample(rng), rng)


def widths(plan: WidthPlan) -> Widths:
    return Widths(plan.channels, tuple(plan.groups[plan.kept]), tuple(plan.neurons[plan.kept]))


def test_the_smaller_of_two_draws_from_one_to_three(monkeypatch):
    rng, switches = np.random.default_rng(0), Counter[int]()
    genes = random_genes("coarse-uniform", rng)
    done = []
    monkeypatch.setattr(
        one_plus_lambda, "_between_dimensions", lambda genes, *_: done.append(1) or genes
    )
    for _ in range(900):
        switched(genes, GROUPED, rng, fine=False, uniform=True)
        switches[len(done)] += 1
        done.clear()
    for count, expected in {1: 500, 2: 300, 3: 100}.items():
        assert switches[count] == pytest.approx(expected, abs=60)


def test_a_level_of_neurons_costs_what_a_group_does():
    rng = np.random.default_rng(1)
    for _ in range(20):
        plan = random_genes("coarse-layerwise", rng).plan
        level, before = levels(GROUPED, plan), widths(plan)
        first, *others = before.groups
        group = replace(before, groups=(first + 1, *others))
        first, *others = before.neurons
        neurons = replace(before, neurons=(first + level["neurons"], *others))
        one, other = parameters(GROUPED, group), parameters(GROUPED, neurons)
        assert abs(one - other) <= 3 * plan.channels / 2  # half of a gated MLP's neuron
        every = replace(before, groups=tuple(count + 1 for count in before.groups))
        wider = replace(before, channels=before.channels + level["channels"])
        channel = parameters(GROUPED, replace(before, channels=before.channels + 1))
        channel -= parameters(GROUPED, before)
        gap = abs(parameters(GROUPED, every) - parameters(GROUPED, wider))
        assert gap <= channel / 2 or level["channels"] == 1
        assert level["layers"] == level["groups"] == 1


def test_a_switch_between_layers_keeps_the_cost():
    rng, moved = np.random.default_rng(2), Counter[str]()
    for _ in range(100):
        genes = random_genes("coarse-layerwise", rng)
        changed = _between_layers(genes, GROUPED, rng)
        before, after = widths(genes.plan), widths(changed.plan)
        assert parameters(GROUPED, after) == parameters(GROUPED, before)
        assert (before.channels, before.layers) == (after.channels, after.layers)
        for name in ("groups", "neurons"):
            change = np.subtract(getattr(after, name), getattr(before, name))
            if change.any():
                moved[name] += 1
                assert np.count_nonzero(change) == 2
                assert 0 < change.max() <= levels(GROUPED, genes.plan)[name]
            assert min(getattr(after, name)) >= 1
            assert max(getattr(after, name)) <= getattr(GROUPED.dimensions, name)
    assert min(moved["groups"], moved["neurons"]) > 10


def test_a_switch_between_dimensions_moves_one_up_and_one_down():
    rng, full = np.random.default_rng(3), GROUPED.dimensions
    for _ in range(100):
        genes = random_genes("coarse-uniform", rng)
        before, after = genes.plan, _between_dimensions(genes, GROUPED, rng).plan
        level, signs = levels(GROUPED, before), []
        for name in DIMENSIONS:
            old, new = (np.unique(getattr(plan, name)) for plan in (before, after))
            assert len(new) == 1
            step = int(new[0] - old[0])
            assert 1 <= new[0] <= getattr(full, name)
            assert abs(step) <= level[name]
            if step:
                signs.append(np.sign(step))
        assert sorted(signs) in ([-1, 1], [-1], [1], [])
        assert after.channels >= GROUPED.head_size


def test_a_switch_of_kept_with_dropped_keeps_the_widths():
    rng, switched_in = np.random.default_rng(4), Counter[str]()
    order = random_order(GROUPED.dimensions)
    space = Space("fine-layerwise", GROUPED, order, any_cost(GROUPED))
    for _ in range(100):
        genes = random_genes("fine-layerwise", rng)
        changed = _kept_with_dropped(genes, GROUPED, rng)
        before, after = space._subnet(genes), space._subnet(changed)
        assert after.channels.sum() == before.channels.sum()
        assert after.layers.sum() == before.layers.sum()
        assert (after.neurons.sum(1) == before.neurons.sum(1)).all()
        assert (after.groups.sum(1) == before.groups.sum(1)).all()
        level = levels(GROUPED, genes.plan)
        for name in DIMENSIONS:
            differ = int((getattr(after, name) != getattr(before, name)).sum())
            assert differ <= 2 * level[name]
            switched_in[name] += differ > 0
        assert sum(switched_in.values()) <= 100
    assert min(switched_in.values()) > 5
    assert set(switched_in) == set(DIMENSIONS)


@pytest.mark.parametrize(
    "name", [pytest.param("coarse-layerwise", marks=pytest.mark.slow), "fine-layerwise"]
)
def test_better_than_random_search_at_equal_evaluations(name):
    budget = Budget(population=20, generations=29)
    planted = Planted(0)
    space = Space(name, GROUPED, random_order(GROUPED.dimensions), share(GROUPED, 0.4, 0.44))
    random = best_of(RandomSearch(space, budget, 0), planted)
    assert best_of(OnePlusLambda(space, budget, 0), planted) < random - 0.002
