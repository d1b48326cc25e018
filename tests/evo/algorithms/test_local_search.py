from evo.algorithms.local_search import LocalSearch
from evo.algorithms.settings import Budget
from tests.evo.algorithms.test_base import fails_for_some, scored, space_of


def test_local_search_mutates_the_best_so_far():
    strategy = LocalSearch(space_of("fine-uniform"), Budget(10, 5), 0)
    first = strategy.ask()
    assert {one.operator for one in first} == {"sample"}
    strategy.tell(scored(first, fails_for_some))
    while proposals := strategy.ask():
        assert strategy.best is not None
        assert {one.operator for one in proposals} == {"mutation"}
        assert {one.parents for one in proposals} == {(strategy.best.subnet.id,)}
        strategy.tell(scored(proposals, fails_for_some))
    assert strategy.generation == 6
