"""What the user hears of a pool's workers: deaths, workers that are missing, and why none comes."""

from __future__ import annotations

import logging
import time

import ray

logger = logging.getLogger("evo.pool")

DEATHS_INTERVAL = 10.0
"""Seconds between messages about workers that died: those of one node die within seconds."""

MESSAGE_INTERVAL = 60.0
"""Seconds between messages while no worker is alive, and before a lack of workers is mentioned."""


class WorkerMessages:
    """Logs what happens to workers, seldom enough to be read.

    Args:
        resources: what a worker needs, by Ray's names.

    Attributes:
        has_mentioned_lack: whether `log_lack` was called before.
    """

    def __init__(self, resources: dict[str, float]) -> None:
        self._resources = resources
        self._deaths: list[int] = []
        self._last_death = ""
        self._no_deaths_before = 0.0
        self.has_mentioned_lack = False
        self._quiet_since = time.monotonic()

    def died(self, units: int, reason: str) -> None:
        """A worker has died with so many units in flight."""
        self._deaths.append(units)
        self._last_death = reason

    def log_deaths(self, *, at_once: bool = False) -> None:
        """Log the deaths since the last message, if there are any and that was long ago.

        With `at_once` the time does not count.
        """
        now = time.monotonic()
        if not self._deaths or not (at_once or now > self._no_deaths_before):
            return
        logger.warning(
            "%d workers died with %d units in flight, which are scored again: %s",
            len(self._deaths),
            sum(self._deaths),
            self._last_death,
        )
        self._deaths.clear()
        self._no_deaths_before = now + DEATHS_INTERVAL

    def log_lack(self, asked: int, alive: int) -> None:
        """Log that fewer workers run than were asked for."""
        self.has_mentioned_lack = True
        logger.warning("asked for %d workers, %d are running, waiting for resources", asked, alive)

    def log_none_alive(self, units: int, *, is_so: bool) -> None:
        """Log from time to time that no worker is alive.

        `units` wait; `is_so` says whether no worker is alive now.
        """
        now = time.monotonic()
        if not is_so:
            self._quiet_since = now
        elif now - self._quiet_since > MESSAGE_INTERVAL:
            self._quiet_since = now
            cluster = _described(ray.cluster_resources())
            logger.warning("no worker is alive, %d units wait; the cluster has %s", units, cluster)

    def none_has_started(self, asked: int, seconds: float) -> str:
        """The message that ends a pool none of whose workers has started."""
        return (
            f"no scoring worker has started in {seconds:.0f} s: asked for {asked} with "
            f"{_described(self._resources)} each, the cluster has "
            f"{_described(ray.cluster_resources())}, of that free "
            f"{_described(ray.available_resources())}"
        )


def _described(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
