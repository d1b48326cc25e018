"""What a study of several bins has found: the best candidate of each bin, and the Pareto front."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Point:
    """A candidate that was scored in full.

    Attributes:
        search: that scored it, `SPACE@BIN`.
        candidate: its id.
        cost: what its bin is a range of.
        fitness: what the search minimises.
        params: its parameters.
        nll: mean negative log-likelihood, nats per token.
        perplexity: its exponential.
    """

    search: str
    candidate: str
    cost: int
    fitness: float
    params: int
    nll: float
    perplexity: float

    @property
    def bin(self) -> str:
        """The name of the search's bin."""
        return self.search.partition("@")[2]


def points_of(search: str, history: pd.DataFrame) -> list[Point]:
    """The candidates of a search that were scored in full."""
    full = history[history["status"] == "full"]
    columns = ("candidate", "cost", "fitness", "params", "nll", "perplexity")
    return [
        Point(search, *values)
        for values in zip(*(full[name].tolist() for name in columns), strict=True)
    ]


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """Those that nothing cheaper is as good as, and nothing as cheap is better than.

    Returns:
        By rising cost, and so by falling fitness. Of several that are alike in both, the one of
        the smallest id.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda candidate: (candidate.cost, *_rank(candidate))):
        if not front or point.fitness < front[-1].fitness:
            front.append(point)
    return front


def best_of_bins(points: Iterable[Point]) -> list[Point]:
    """The best of each bin, over all of its spaces.

    Returns:
        In the order in which the bins first occur.
    """
    best: dict[str, Point] = {}
    for point in points:
        best[point.bin] = min(best.get(point.bin, point), point, key=_rank)
    return list(best.values())


def _rank(point: Point) -> tuple[float, str, str]:
    return point.fitness, point.candidate, point.search
