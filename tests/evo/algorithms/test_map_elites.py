import json
from collections import Counter

import numpy as np
import pytest

from evo.algorithms.base import Scored
from evo.algorithms.map_elites import MapElites
from evo.algorithms.settings import Budget, Rates
from evo.genome import SPACES
from evo.genome.operators.gate_swaps import GateGradients
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.genome.width_limits import WidthLimits
from tests.evo.algorithms.test_base import fails_for_some, run, scored, space_of
from tests.support.architectures import NEOX, random_order, share
from tests.support.restored import restore


def shallow_is_better(subnet: Subnet) -> float:
    """Every candidate of fewer layers is better than any of more."""
    return int(subnet.layers.sum()) + int(subnet.id, 16) / 2**64


@pytest.mark.parametrize("elites", [1, 8, 10])
def test_every_niche_keeps_its_own_best(elites):
    strategy = MapElites(space_of("fine-layerwise"), Budget(20, 6), 0, Rates(elites=elites))
    places = max(1, elites // len(strategy.space.depths))
    assert strategy.elite_count == places
    told: list[Scored] = []
    while proposals := strategy.ask():
        parents = {parent for one in proposals for parent in one.parents}
        assert parents <= {one.subnet.id for one in strategy.elites}
        results = scored(proposals, fails_for_some)
        strategy.tell(results)
        told += results
        ranked = sorted((one.fitness, one.subnet.id) for one in told if one.fitness is not None)
        assert [(one.fitness, one.subnet.id) for one in strategy.elites] == [
            one for one in ranked if one in strategy_keeps(told, places)
        ]
    assert set(strategy.niches) == {2, 3, 4}
    for layers, niche in strategy.niches.items():
        assert {strategy.niche(one.subnet) for one in niche} == {layers}
        assert len(niche) == places


def strategy_keeps(told: list[Scored], places: int) -> set[tuple[float, str]]:
    kept = set()
    for layers in range(2, 5):
        own = [one for one in told if one.subnet.widths.layers == layers]
        kept |= set(
            sorted((one.fitness, one.subnet.id) for one in own if one.fitness is not None)[:places]
        )
    return kept


def test_the_best_of_all_does_not_drive_out_other_depths():
    strategy = MapElites(space_of("fine-layerwise"), Budget(20, 6), 0, Rates(elites=8))
    run(strategy, shallow_is_better)
    assert {layers: len(niche) for layers, niche in strategy.niches.items()} == dict.fromkeys(
        (2, 3, 4), 2
    )
    assert strategy.best is not None
    assert strategy.best.subnet.id == strategy.niches[2][0].subnet.id


@pytest.mark.parametrize("rates", [Rates(8, 1, 0), Rates(8, 0, 1)])
def test_all_niches_are_parents_equally_often_however_many_elites_they_have(rates):
    strategy = MapElites(space_of("fine-layerwise"), Budget(300, 1), 0, rates)
    first = strategy.ask()
    by_depth = {one.subnet.widths.layers: one.subnet for one in first}
    lone = by_depth[2]
    strategy.tell(
        [
            Scored(
                one.subnet,
                None if one.subnet.widths.layers == 2 and one.subnet.id != lone.id else 2.0,
            )
            for one in first
        ]
    )
    assert {layers: len(niche) for layers, niche in strategy.niches.items()} == {
        2: 1, 3: 2, 4: 2
    }  # fmt: skip
    depth = {one.subnet.id: one.subnet.widths.layers for one in strategy.elites}
    proposals = strategy.ask()
    firsts = Counter(depth[one.parents[0]] for one in proposals if one.parents)
    assert set(firsts) == {2, 3, 4}
    assert min(firsts.values()) > 0.7 * len(proposals) / 3
    assert max(firsts.values()) < 1.3 * len(proposals) / 3
    for one in proposals:
        assert len(set(one.parents)) == len(one.parents) == (1 if rates.mutation else 2)


@pytest.mark.parametrize("name", SPACES)
def test_offspring_move_between_niches(name):
    """A layer is dropped or taken back often enough without an operator for it."""
    strategy = MapElites(space_of(name), Budget(150, 1), 0, Rates(4, 1, 0))
    strategy.tell(scored(strategy.ask()))
    depth = {one.subnet.id: one.subnet.widths.layers for one in strategy.elites}
    offspring = strategy.ask()
    moved = [one.subnet.widths.layers - depth[one.parents[0]] for one in offspring if one.parents]
    assert sum(step != 0 for step in moved) > 0.15 * len(moved)
    assert {-1, 1} <= set(moved)


def test_one_elite_has_nobody_to_cross_with():
    strategy = MapElites(space_of(), Budget(5, 1), 0, Rates(1, 0, 1))
    first = strategy.ask()
    strategy.tell([Scored(one.subnet, None if index else 2.0) for index, one in enumerate(first)])
    assert {one.operator for one in strategy.ask()} == {"sample"}


def test_depths_that_are_not_allowed_have_no_share():
    bin = share(NEOX, 0.4, 0.45)
    limits = WidthLimits.parse([], ["layers=3"])
    space = Space("fine-layerwise", NEOX, random_order(NEOX.dimensions), bin, limits=limits)
    strategy = MapElites(space, Budget(20, 2), 0, Rates(elites=10))
    assert strategy.elite_count == 5
    run(strategy)
    assert {layers: len(niche) for layers, niche in strategy.niches.items()} == {3: 5, 4: 5}


@pytest.mark.parametrize("name", SPACES)
def test_restore_goes_on_the_same(name):
    def fresh(seed: int) -> MapElites:
        return MapElites(space_of(name), Budget(12, 4, patience=3), seed, Rates(elites=8))

    whole, first, told = fresh(3), fresh(3), []
    generations = run(whole, fails_for_some)
    for _ in range(2):
        results = scored(first.ask(), fails_for_some)
        first.tell(results)
        told += results
    state = json.loads(json.dumps(first.state()))
    second = fresh(99)
    restore(second, state, told)
    assert second.state() == state
    assert [one.subnet.id for one in second.elites] == [one.subnet.id for one in first.elites]
    described = [
        [[(one.subnet.id, one.operator, one.parents) for one in each] for each in these]
        for these in (run(second, fails_for_some), generations[2:])
    ]
    assert described[0] == described[1]
    assert (second.ended, second.generation) == (whole.ended, whole.generation)


def test_patience_waits_for_every_niche():
    """The best of all stays as it is; a deeper niche gets better until the third generation."""
    strategy = MapElites(space_of("fine-layerwise"), Budget(30, 50, patience=3), 0)
    while proposals := strategy.ask():
        better = 0.1 * min(strategy.generation, 2)
        strategy.tell(
            [
                Scored(one.subnet, depth - (better if depth == 3 else 0))
                for one in proposals
                if (depth := one.subnet.widths.layers)
            ]
        )
    assert strategy.ended == "patience"
    assert strategy.generation == 6


def test_niches_take_turns_at_gradients_and_all_have_offspring_by_them():
    strategy = MapElites(space_of("fine-layerwise"), Budget(40, 6), 0, Rates(elites=8))
    d = strategy.space.architecture.dimensions
    rng = np.random.default_rng(0)
    known: dict[str, GateGradients] = {}
    gated = []
    while proposals := strategy.ask():
        strategy.tell(scored(proposals))
        elite = strategy.next_to_gate(known)
        if elite is not None:
            gated.append(strategy.niche(elite))
            known[elite.id] = GateGradients(
                rng.standard_normal(d.channels),
                rng.standard_normal((d.layers, d.groups)),
                rng.standard_normal((d.layers, d.neurons)),
            )
        strategy.gradients = known
    assert set(gated[:3]) == {2, 3, 4}
    strategy = MapElites(space_of("fine-layerwise"), Budget(40, 6), 0, Rates(elites=8))
    strategy.tell(scored(strategy.ask()))
    strategy.gradients = {one.subnet.id: next(iter(known.values())) for one in strategy.elites}
    made = [one for one in strategy.ask() if one.operator == "gates"]
    assert len(made) == 20
    assert {strategy.niche(one.subnet) for one in made} == {2, 3, 4}
