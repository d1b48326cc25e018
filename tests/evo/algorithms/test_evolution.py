import numpy as np
import pytest

from evo.algorithms.base import Scored, Strategy
from evo.algorithms.evolution import GATED, Evolution
from evo.algorithms.random_search import RandomSearch
from evo.algorithms.settings import Budget, Rates
from evo.errors import UserError
from evo.genome.operators.gate_swaps import GateGradients
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from tests.evo.algorithms.test_base import fails_for_some, scored, space_of
from tests.support.architectures import GROUPED, random_order, share


class Planted:
    """A fitness that is the lower, the more of what matters is kept, with diminishing returns."""

    def __init__(self, seed: int) -> None:
        d, rng = GROUPED.dimensions, np.random.default_rng(seed)
        self.channels = rng.exponential(size=d.channels)
        self.groups = rng.exponential(size=(d.layers, d.groups))
        self.neurons = rng.exponential(size=(d.layers, d.neurons))

    def __call__(self, subnet: Subnet) -> float:
        kept = subnet.layers[:, None]
        shares = (
            (self.channels * subnet.channels).sum() / self.channels.sum(),
            (self.groups * subnet.groups * kept).sum() / self.groups.sum(),
            (self.neurons * subnet.neurons * kept).sum() / self.neurons.sum(),
        )
        return float(-np.mean(np.sqrt(shares)))


def best_of(strategy: Strategy, score: Planted) -> float:
    while proposals := strategy.ask():
        strategy.tell([Scored(one.subnet, score(one.subnet)) for one in proposals])
    assert strategy.best is not None
    assert strategy.best.fitness is not None
    return strategy.best.fitness


@pytest.mark.parametrize("name", ["coarse-layerwise", "fine-layerwise"])
def test_better_than_random_search_at_equal_evaluations(name):
    budget = Budget(population=20, generations=29)
    gains = []
    for seed in range(2):
        planted = Planted(seed)
        space = Space(name, GROUPED, random_order(GROUPED.dimensions), share(GROUPED, 0.4, 0.44))
        random = best_of(RandomSearch(space, budget, seed), planted)
        rates = Rates(elites=5)
        gains.append(random - best_of(Evolution(space, budget, seed, rates), planted))
    assert min(gains) > 0.002


def test_the_order_helps_where_it_knows_what_matters():
    planted = Planted(3)
    known = Order.by_importance(
        layers=planted.neurons.sum(1),
        channels=planted.channels,
        groups=planted.groups,
        neurons=planted.neurons,
    )
    budget = Budget(population=20, generations=3)
    bests = [
        best_of(Evolution(Space("fine-layerwise", GROUPED, order, share(GROUPED, 0.4, 0.44)),
                          budget, 0), planted)
        for order in (known, random_order(GROUPED.dimensions))
    ]  # fmt: skip
    assert bests[0] < bests[1] - 0.05


def test_elites_are_the_best_and_parents_are_elites():
    strategy = Evolution(space_of("fine-uniform"), Budget(12, 4), 0, Rates(elites=3))
    told: list[Scored] = []
    while proposals := strategy.ask():
        parents = {parent for one in proposals for parent in one.parents}
        assert parents <= {one.subnet.id for one in strategy.elites}
        for one in proposals:
            expected = {"sample": 0, "enumeration": 0, "mutation": 1, "crossover": 2}
            assert len(set(one.parents)) == expected[one.operator]
        results = scored(proposals, fails_for_some)
        strategy.tell(results)
        told += results
        valid = sorted((one.fitness, one.subnet.id) for one in told if one.fitness is not None)
        assert [(one.fitness, one.subnet.id) for one in strategy.elites] == valid[:3]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (Rates(mutation=1, crossover=0), {"mutation"}),
        (Rates(mutation=0, crossover=1), {"crossover"}),
        (Rates(mutation=0, crossover=0), {"sample"}),
        (Rates(), {"mutation", "crossover", "sample"}),
    ],
)
def test_rates(rates, expected):
    strategy = Evolution(space_of("fine-layerwise"), Budget(30, 1), 0, rates)
    first = strategy.ask()
    assert {one.operator for one in first} == {"sample"}
    strategy.tell(scored(first))
    assert {one.operator for one in strategy.ask()} == expected


def test_one_elite_has_nobody_to_cross_with():
    strategy = Evolution(space_of(), Budget(5, 1), 0, Rates(elites=1, mutation=0, crossover=1))
    strategy.tell(scored(strategy.ask()))
    assert {one.operator for one in strategy.ask()} == {"sample"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"elites": 0}, "0 elites have no offspring"),
        ({"mutation": -0.1}, "are no shares"),
        ({"mutation": 0.7, "crossover": 0.4}, "are no shares"),
        ({"mutation": float("nan")}, "are no shares"),
        ({"crossover": float("nan")}, "are no shares"),
    ],
)
def test_rates_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        Rates(**settings)


def gradients_of(strategy: Evolution, score: Planted) -> dict[str, GateGradients]:
    """What is worth keeping lowers the loss."""
    values = GateGradients(-score.channels, -score.groups, -score.neurons)
    return {elite.subnet.id: values for elite in strategy.elites}


@pytest.mark.parametrize("name", ["fine-uniform", "fine-layerwise"])
def test_half_of_a_generation_by_gradients_ends_better_than_none(name):
    budget = Budget(population=20, generations=9)
    gains = []
    for seed in range(2):
        planted, bests = Planted(seed), []
        for gated in (False, True):
            space = Space(
                name, GROUPED, random_order(GROUPED.dimensions), share(GROUPED, 0.4, 0.44)
            )
            strategy = Evolution(space, budget, seed, Rates(elites=5))
            while proposals := strategy.ask():
                made = [one for one in proposals if one.operator == "gates"]
                assert len(made) == (10 if strategy.gradients else 0)
                assert {one.parents[0] for one in made} <= set(strategy.gradients)
                strategy.tell([Scored(one.subnet, planted(one.subnet)) for one in proposals])
                strategy.gradients = gradients_of(strategy, planted) if gated else {}
            assert strategy.best is not None
            bests.append(strategy.best.fitness)
        gains.append(bests[0] - bests[1])
    assert min(gains) > 0.005


def test_gradients_that_promise_nothing_leave_their_places_to_others():
    strategy = Evolution(space_of("fine-uniform"), Budget(12, 2), 0, Rates(elites=3))
    strategy.tell(scored(strategy.ask()))
    d = strategy.space.architecture.dimensions
    nothing = GateGradients(
        np.zeros(d.channels), np.zeros((d.layers, d.groups)), np.zeros((d.layers, d.neurons))
    )
    strategy.gradients = {elite.subnet.id: nothing for elite in strategy.elites}
    proposals = strategy.ask()
    assert len(proposals) == 12
    assert "gates" not in {one.operator for one in proposals}


def test_the_best_elite_without_a_gradient_is_next():
    strategy = Evolution(space_of("fine-uniform"), Budget(12, 2), 0, Rates(elites=5))
    assert strategy.next_to_gate(()) is None
    strategy.tell(scored(strategy.ask()))
    best = [elite.subnet.id for elite in strategy.elites]
    known: list[str] = []
    while (elite := strategy.next_to_gate(known)) is not None:
        known.append(elite.id)
    assert known == best[:GATED]
    alone = Evolution(space_of("fine-uniform"), Budget(1, 2), 0)
    alone.tell(scored(alone.ask()))
    assert alone.next_to_gate(()) is None  # half of one is none
    coarse = Evolution(space_of("coarse-uniform"), Budget(12, 2), 0)
    coarse.tell(scored(coarse.ask()))
    assert coarse.next_to_gate(()) is None
