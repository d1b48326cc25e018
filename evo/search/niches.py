"""The candidates of a history by their number of layers, whether these were its niches or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from evo.search.history import Row


def in_turns(rows: Iterable[Row]) -> list[Row]:
    """What was scored in full: the best of each number of layers, then the second bests, and so on;
    within a turn, the best first."""
    turns: Counter[int] = Counter()
    ranked: list[tuple[int, Row]] = []
    full = (row for row in rows if row.status == "full")
    for row in sorted(full, key=lambda row: (row.fitness, row.candidate)):
        ranked.append((turns[row.layers], row))
        turns[row.layers] += 1
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


def best_of_niches(rows: Iterable[Row]) -> list[Row]:
    """The best of each number of layers, of what was scored in full; the fewest layers first."""
    bests: dict[int, Row] = {}
    for row in in_turns(rows):
        bests.setdefault(row.layers, row)
    return [bests[layers] for layers in sorted(bests)]
