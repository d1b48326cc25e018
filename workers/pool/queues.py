"""Units of work in the order in which workers get them: searches share evenly. Without Ray."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

AFFINITY_LEAD = 8
"""A search may be this number of units ahead of the last one, to spare a worker an extraction."""


@dataclass(frozen=True)
class Unit:
    """One candidate on one shard, or a part of the gradient of its gates.

    Attributes:
        search: name of the search whose unit it is; searches share the workers evenly.
        candidate: the subnet's id.
        genome: as `Subnet.pack` makes it.
        shard: its number among the text's shards, or the number of the part.
        start: the first block.
        stop: the one after the last block.
        kind: what is to be done there.
    """

    search: str
    candidate: str
    genome: bytes
    shard: int
    start: int
    stop: int
    kind: Literal["score", "gates"] = "score"


@dataclass
class _Queue:
    """Queued units of a search, by candidate, both first in, first out.

    Attributes:
        units: by candidate.
        size: how many units are queued.
        given: how many units of the search workers were given.
    """

    units: OrderedDict[str, deque[Unit]] = field(default_factory=OrderedDict)
    size: int = 0
    given: int = 0


class FairQueues:
    """A first-in-first-out queue per search, bent only to keep a candidate on its worker.

    The search that was given the least is next. A search that had nothing to do has no claim to
    what it missed (start-time fair queueing, Goyal et al. 1996, all units alike).
    """

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = {}
        self._clock = 0  # what the search that was served last had been given before

    def size(self, search: str | None = None) -> int:
        """How many units are queued, of a search or of all."""
        if search is None:
            return sum(queue.size for queue in self._queues.values())
        return self._queues[search].size if search in self._queues else 0

    def add(self, unit: Unit) -> None:
        """Queue a unit at the end of its search's queue."""
        queue = self._queues.setdefault(unit.search, _Queue())
        if not queue.size:
            queue.given = max(queue.given, self._clock)
        queue.units.setdefault(unit.candidate, deque()).append(unit)
        queue.size += 1

    def cancel(self, search: str, candidate: str) -> list[Unit]:
        """Drop a candidate's units; returns those that were queued."""
        queue = self._queues.get(search)
        dropped = list(queue.units.pop(candidate, ())) if queue else []
        if queue:
            queue.size -= len(dropped)
        return dropped

    def remove(self, search: str) -> None:
        """Drop a search with all its units."""
        self._queues.pop(search, None)

    def take(self, held: str | None, all_held: Collection[str | None]) -> Unit | None:
        """The next unit for a worker.

        Args:
            held: the candidate whose weights the worker has already.
            all_held: candidates whose weights any worker has; a unit of these is taken only if
                there is no other.

        Returns:
            None if nothing is queued.
        """
        waiting = [queue for queue in self._queues.values() if queue.size]
        if not waiting:
            return None
        least = min(waiting, key=lambda queue: queue.given)
        if held is not None:
            for queue in waiting:
                if held in queue.units and queue.given < least.given + AFFINITY_LEAD:
                    return self._pop(queue, held)
        fresh = (name for name in least.units if name not in all_held)
        return self._pop(least, next(fresh, next(iter(least.units))))

    def _pop(self, queue: _Queue, candidate: str) -> Unit:
        units = queue.units[candidate]
        unit = units.popleft()
        if not units:
            del queue.units[candidate]
        queue.size -= 1
        self._clock = max(self._clock, queue.given)
        queue.given += 1
        return unit
