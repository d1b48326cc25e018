"""How a pool's workers are, for whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolState:
    """How many there are.

    Attributes:
        wanted: workers that were asked for, or, without a fixed number, for which there was room.
        alive: workers that have started and are alive.
        busy: of these, those that have a unit.
        queued: units that no worker has.
        restarts: workers that have died so far.
    """

    wanted: int = 0
    alive: int = 0
    busy: int = 0
    queued: int = 0
    restarts: int = 0
