import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from evo.algorithms.base import Proposal, Scored, Strategy
from evo.algorithms.evolution import Evolution
from evo.algorithms.local_search import LocalSearch
from evo.algorithms.random_search import RandomSearch
from evo.algorithms.settings import Budget
from evo.errors import UserError
from evo.genome import SPACES
from evo.genome.cost import Architecture
from evo.genome.space import Space
from evo.genome.subnet import Dimensions, Subnet
from tests.support.architectures import NEOX, is_member, random_order, share
from tests.support.restored import restore

STRATEGIES: list[type[Strategy]] = [Evolution, RandomSearch, LocalSearch]
TINY = Architecture(Dimensions(3, 6, 2, 4), 5, 2, 1, 2, True, True, False, False, 2, 2)

SMALL = {
    "coarse-uniform": (0.45, 0.8),
    "coarse-layerwise": (0.9, 0.95),
    "fine-uniform": (0.7, 0.8),
    "fine-layerwise": (0.95, 0.97),
}
"""Shares of `TINY` that few candidates are in."""


def fitness(subnet: Subnet) -> float:
    """As good as random, but the same every time."""
    return 2 + int(subnet.id, 16) / 2**64


def fails_for_some(subnet: Subnet) -> float | None:
    return None if int(subnet.id, 16) % 4 == 0 else fitness(subnet)


def scored(
    proposals: Sequence[Proposal], score: Callable[[Subnet], float | None] = fitness
) -> list[Scored]:
    return [Scored(one.subnet, score(one.subnet)) for one in proposals]


def space_of(name: str = "coarse-uniform", low: float = 0.4, high: float = 0.45) -> Space:
    return Space(name, NEOX, random_order(NEOX.dimensions), share(NEOX, low, high))


def run(strategy: Strategy, score: Callable[[Subnet], float | None] = fitness) -> list[list]:
    generations = []
    while proposals := strategy.ask():
        generations.append(proposals)
        strategy.tell(scored(proposals, score))
    return generations


@pytest.mark.parametrize("kind", STRATEGIES)
def test_budget_and_no_candidate_twice(kind):
    space = space_of()
    strategy = kind(space, Budget(population=8, generations=5), 0)
    generations = run(strategy, fails_for_some)
    assert [len(one) for one in generations] == [8] * 6
    assert strategy.ended == "budget"
    assert strategy.ask() == []
    candidates = [one.subnet for generation in generations for one in generation]
    assert len({one.id for one in candidates}) == 48
    assert all(is_member(space, one) for one in candidates)
    best = min((one for one in candidates if fails_for_some(one)), key=fitness)
    assert strategy.best is not None
    assert (strategy.best.subnet.id, strategy.best.fitness) == (best.id, fitness(best))


def test_something_else_may_be_done_between_proposals():
    calls = []
    asked = Evolution(space_of(), Budget(8), 0).ask(lambda: calls.append(1))
    assert len(calls) == len(asked) == 8
    alone = Evolution(space_of(), Budget(8), 0).ask()
    assert [one.subnet.id for one in asked] == [one.subnet.id for one in alone]


@pytest.mark.parametrize("kind", STRATEGIES)
def test_same_seed_same_search_whatever_the_order_of_results(kind):
    def ids(seed: int, shuffle: int) -> list[list[str]]:
        strategy = kind(space_of("fine-layerwise"), Budget(6, 3), [seed, 7])
        rng, generations = np.random.default_rng(shuffle), []
        while proposals := strategy.ask():
            generations.append([one.subnet.id for one in proposals])
            results = scored(proposals, fails_for_some)
            strategy.tell([results[index] for index in rng.permutation(len(results))])
        return generations

    assert ids(0, 0) == ids(0, 1)
    assert ids(0, 0)[0] != ids(1, 0)[0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((Evolution, name) for name in SPACES), (RandomSearch, "fine-uniform"),
     (LocalSearch, "coarse-layerwise")],
)  # fmt: skip
def test_restore_goes_on_the_same(kind, name):
    budget = Budget(population=6, generations=4, patience=3)

    def described(generations: list[list[Proposal]]) -> list:
        return [[(p.subnet.id, p.operator, p.parents) for p in one] for one in generations]

    whole = kind(space_of(name), budget, 3)
    generations = described(run(whole, fails_for_some))

    first = kind(space_of(name), budget, 3)
    told: list[Scored] = []
    for _ in range(2):
        results = scored(first.ask(), fails_for_some)
        first.tell(results)
        told += results
    state = json.loads(json.dumps(first.state()))
    first.ask()  # a killed search has asked for more than was told

    second = kind(space_of(name), budget, 99)
    restore(second, state, told)
    assert second.state() == state
    rest = described(run(second, fails_for_some))
    assert rest == generations[2:]
    assert (second.ended, second.generation) == (whole.ended, whole.generation)
    assert second.best is not None
    assert whole.best is not None
    assert second.best.subnet.id == whole.best.subnet.id


@pytest.mark.parametrize("kind", STRATEGIES)
def test_patience(kind):
    def getting_better_until_the_third(generation: int) -> float:
        return 5.0 - min(generation, 2)

    strategy = kind(space_of(), Budget(population=4, generations=50, patience=3), 0)
    while proposals := strategy.ask():
        value = getting_better_until_the_third(strategy.generation)
        strategy.tell(
            [Scored(p.subnet, value + i * 1e-3) for i, p in enumerate(sorted_by_id(proposals))]
        )
    assert strategy.ended == "patience"
    assert strategy.generation == 6  # the third was the last to be better


def sorted_by_id(proposals: Sequence[Proposal]) -> list[Proposal]:
    return sorted(proposals, key=lambda one: one.subnet.id)


def test_a_tie_is_no_improvement():
    strategy = RandomSearch(space_of(), Budget(population=4, generations=50, patience=2), 0)
    while proposals := strategy.ask():
        strategy.tell(scored(proposals, lambda subnet: 1.0))
    assert strategy.generation == 3


@pytest.mark.parametrize("kind", STRATEGIES)
def test_all_failed(kind):
    strategy = kind(space_of(), Budget(population=4, generations=2), 0)
    generations = run(strategy, lambda subnet: None)
    assert [one.operator for generation in generations for one in generation] == ["sample"] * 12
    assert strategy.best is None
    assert strategy.ended == "budget"


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((Evolution, name) for name in SPACES), (RandomSearch, "fine-uniform"),
     (LocalSearch, "coarse-uniform")],
)  # fmt: skip
def test_an_exhausted_space_is_scored_wholly_and_once(kind, name):
    space = Space(name, TINY, random_order(TINY.dimensions), share(TINY, *SMALL[name]))
    strategy = kind(space, Budget(population=20, generations=200), 0)
    every = strategy._every
    assert every is not None
    assert 20 < len(every) < 200, len(every)
    candidates = [one for generation in run(strategy) for one in generation]
    assert strategy.ended == "space exhausted"
    assert sorted(one.subnet.id for one in candidates) == sorted(every)


def test_a_space_as_large_as_the_generations():
    """The end is known only when one more candidate is asked for."""
    space = Space("coarse-uniform", TINY, random_order(TINY.dimensions), share(TINY, 0.45, 0.8))
    size = len(RandomSearch(space, Budget(), 0)._every or {})
    strategy = RandomSearch(space, Budget(population=size, generations=3), 0)
    assert len(run(strategy)) == 1
    assert strategy.ended == "space exhausted"
    assert strategy.ask() == []


def test_budget_of_one_generation():
    strategy = Evolution(space_of(), Budget(population=3, generations=0), 0)
    assert [len(one) for one in run(strategy)] == [3]
    assert strategy.ended == "budget"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 0}, "a population of 0 cannot evolve"),
        ({"generations": -1}, "-1 generations cannot be"),
        ({"patience": 0}, "a patience of 0 generations cannot be"),
    ],
)
def test_budgets_that_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        Budget(**settings)
