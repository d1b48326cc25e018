import numpy as np
import pytest

from evo.search.pareto_front import Point, best_of_bins, pareto_front


def points(seed: int, count: int, levels: int) -> list[Point]:
    """Random ones; with few levels, many of equal cost or fitness."""
    rng = np.random.default_rng(seed)
    return [
        Point(
            search=f"{rng.choice(['coarse-uniform', 'fine-layerwise'])}@{rng.integers(20, 23)}%",
            candidate=f"{rng.integers(count):016x}",
            cost=int(rng.integers(levels)),
            fitness=float(rng.integers(levels)),
            params=0,
            nll=0.0,
            perplexity=1.0,
        )
        for _ in range(count)
    ]


def dominates(one: Point, other: Point) -> bool:
    return (
        one.cost <= other.cost
        and one.fitness <= other.fitness
        and (one.cost, one.fitness) != (other.cost, other.fitness)
    )


@pytest.mark.parametrize("levels", [3, 10, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_dominates(seed: int, levels: int) -> None:
    every = points(seed, 60, levels)
    front = pareto_front(every)
    undominated = {
        (one.cost, one.fitness) for one in every if not any(dominates(o, one) for o in every)
    }
    assert [(one.cost, one.fitness) for one in front] == sorted(undominated)
    for one in front:
        alike = [o for o in every if (o.cost, o.fitness) == (one.cost, one.fitness)]
        assert one.candidate == min(o.candidate for o in alike)
    assert pareto_front(every[::-1]) == front


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_every_bin(seed: int) -> None:
    every = points(seed, 60, 20)
    best = best_of_bins(every)
    assert [one.bin for one in best] == list(dict.fromkeys(one.bin for one in every))
    for one in best:
        rivals = [o for o in every if o.search.endswith(f"@{one.bin}")]
        assert one.fitness == min(o.fitness for o in rivals)
        alike = [o for o in rivals if o.fitness == one.fitness]
        assert one.candidate == min(o.candidate for o in alike)


def test_of_nothing() -> None:
    assert pareto_front([]) == best_of_bins([]) == []
