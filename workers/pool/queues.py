"""Units of work in the order in which workers get them: lanes share evenly. Without Ray."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field

AFFINITY_LEAD = 8
"""So many units more than the most behind lane may a lane get, to spare a worker an extraction."""


@dataclass(frozen=True)
class Unit:
    """One candidate on one shard.

    Attributes:
        lane: whose unit it is; lanes share the workers evenly.
        candidate: the subnet's id.
        genome: as `Subnet.pack` makes it.
        shard: its number among the text's shards.
        start: the shard's first block.
        stop: the one after its last block.
    """

    lane: str
    candidate: str
    genome: bytes
    shard: int
    start: int
    stop: int


@dataclass
class _Lane:
    """Queued units by candidate, both first in, first out, and how many the lane was given."""

    units: OrderedDict[str, deque[Unit]] = field(default_factory=OrderedDict)
    size: int = 0
    given: int = 0


class LaneQueues:
    """A first-in-first-out queue per lane, bent only to keep a candidate on its worker.

    The lane that was given the least is next. A lane that had nothing to do has no claim to
    what it missed (start-time fair queueing, Goyal et al. 1996, all units alike).
    """

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._clock = 0  # what the lane that was served last had been given before

    def size(self, lane: str | None = None) -> int:
        """How many units are queued, in a lane or in all."""
        if lane is None:
            return sum(each.size for each in self._lanes.values())
        return self._lanes[lane].size if lane in self._lanes else 0

    def add(self, unit: Unit) -> None:
        """Queue a unit at the end of its lane."""
        lane = self._lanes.setdefault(unit.lane, _Lane())
        if not lane.size:
            lane.given = max(lane.given, self._clock)
        lane.units.setdefault(unit.candidate, deque()).append(unit)
        lane.size += 1

    def cancel(self, lane: str, candidate: str) -> list[Unit]:
        """Drop a candidate's units; returns those that were queued."""
        queue = self._lanes.get(lane)
        dropped = list(queue.units.pop(candidate, ())) if queue else []
        if queue:
            queue.size -= len(dropped)
        return dropped

    def remove(self, lane: str) -> None:
        """Drop a lane with all its units."""
        self._lanes.pop(lane, None)

    def take(self, held: str | None, all_held: Collection[str | None]) -> Unit | None:
        """The next unit for a worker.

        Args:
            held: the candidate whose weights the worker has already.
            all_held: candidates that any worker has; another one's is taken only if there is no
                other.

        Returns:
            None if nothing is queued.
        """
        waiting = [lane for lane in self._lanes.values() if lane.size]
        if not waiting:
            return None
        least = min(waiting, key=lambda lane: lane.given)
        if held is not None:
            for lane in waiting:
                if held in lane.units and lane.given < least.given + AFFINITY_LEAD:
                    return self._pop(lane, held)
        fresh = (name for name in least.units if name not in all_held)
        return self._pop(least, next(fresh, next(iter(least.units))))

    def _pop(self, lane: _Lane, candidate: str) -> Unit:
        units = lane.units[candidate]
        unit = units.popleft()
        if not units:
            del lane.units[candidate]
        lane.size -= 1
        self._clock = max(self._clock, lane.given)
        lane.given += 1
        return unit
