from evo.algorithms.random_search import RandomSearch
from evo.algorithms.settings import Budget
from tests.evo.algorithms.test_base import scored, space_of


def test_random_search_only_samples():
    strategy = RandomSearch(space_of(), Budget(10, 2), 0)
    while proposals := strategy.ask():
        assert {one.operator for one in proposals} == {"sample"}
        strategy.tell(scored(proposals))
