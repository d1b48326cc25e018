"""Units whose worker died: each runs alone until it is scored, or has killed too many workers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from workers.pool.queues import Unit

LONE_DEATHS = 5
"""A unit that has killed this number of workers while it ran alone counts as failed."""


class Quarantine:
    """The units that a dead worker had in flight, any of which may have killed it."""

    def __init__(self) -> None:
        self._waiting: list[Unit] = []
        self._lone_deaths: dict[Unit, int] = {}

    def __len__(self) -> int:
        """How many units wait for a worker of their own."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[Unit]:
        return iter(self._waiting)

    def holds_any(self, units: Iterable[Unit]) -> bool:
        """Whether any of these units waits here, or runs alone."""
        return bool(self._lone_deaths) and any(unit in self._lone_deaths for unit in units)

    def add(self, units: Collection[Unit]) -> list[Unit]:
        """Take in the units of a dead worker.

        Returns:
            Units that have killed `LONE_DEATHS` workers while they ran alone; they are not kept.
        """
        deadly = []
        for unit in units:
            self._lone_deaths[unit] = self._lone_deaths.get(unit, 0) + (len(units) == 1)
            if self._lone_deaths[unit] < LONE_DEATHS:
                self._waiting.append(unit)
            else:
                del self._lone_deaths[unit]
                deadly.append(unit)
        return deadly

    def next(self) -> Unit:
        """The unit that has waited longest, to run alone; it stays under observation."""
        return self._waiting.pop(0)

    def scored(self, unit: Unit) -> None:
        """A unit has a score, so it killed nothing."""
        self._lone_deaths.pop(unit, None)

    def drop(self, search: str, candidate: str | None = None) -> list[Unit]:
        """Forget the waiting units of a search, or of one of its candidates."""
        dropped = [
            unit
            for unit in self._waiting
            if unit.search == search and candidate in (None, unit.candidate)
        ]
        for unit in dropped:
            self._waiting.remove(unit)
            del self._lone_deaths[unit]
        return dropped
