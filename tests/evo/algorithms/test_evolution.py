import numpy as np
import pytest

from evo.algorithms.base import Scored, Strategy
from evo.algorithms.evolution import Evolution
from evo.algorithms.random_search import RandomSearch
from evo.algorithms.settings import Budget, Rates
from evo.errors import UserError
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
