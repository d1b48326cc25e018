"""Ray actors that score units of work: dispatch, and retries of what a dead worker had in flight.

The unit of work is one candidate on one shard. Which worker scores which unit, and when, depends
on timing; what a unit scores does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

from evo.errors import UserError
from workers.pool.queues import LaneQueues, Unit
from workers.pool.teacher_store import raise_user_error
from workers.pool.worker_group import ScoringWorker, Worker, WorkerGroup
from workers.settings import PoolSettings, ScoringSettings

__all__ = ["Pool", "PoolSettings", "Unit", "UnitResult"]

UNITS_IN_FLIGHT = 2
"""Per worker: one to score, one that waits there, so that a worker never waits for the driver."""

LONE_DEATHS = 5
"""So many workers may a unit kill while nothing else is in flight, before it counts as failed."""

DEATHS = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError)


@dataclass(frozen=True)
class UnitResult:
    """What became of a unit.

    Attributes:
        unit: as it was submitted.
        nll: of each sequence, summed over its targets in float64, nats; empty where the candidate
            failed.
        tokens: targets that were scored; 0 where the candidate failed.
        seconds: wall-clock time of the scoring itself.
        failure: why the candidate has no NLL, or None.
        divergence: from the teacher, as the NLL; None where none was asked for.
        latency: of decoding one token, femtoseconds; None where it was not measured.
    """

    unit: Unit
    nll: tuple[float, ...]
    tokens: int
    seconds: float
    failure: str | None = None
    divergence: tuple[float, ...] | None = None
    latency: int | None = None


class Pool:
    """Workers that score the subnets of one teacher on one text.

    Everything happens within the calls: nothing is dispatched while the driver does not wait.
    Workers belong to the driver's job and end with it.

    Example:
        ```python
        with Pool(path, blocks, ScoringSettings(), PoolSettings(workers=2)) as pool:
            pool.submit(units)
            while pool.pending():
                results = pool.wait(1.0)
        ```
    """

    def __init__(
        self,
        teacher: Path,
        blocks: NDArray[np.integer],
        scoring: ScoringSettings,
        settings: PoolSettings,
        worker: type = ScoringWorker,
    ) -> None:
        """Ask Ray, which must have been initialised, for the workers; returns at once.

        Args:
            teacher: a checkpoint directory, which the node that loads it must see.
            blocks: token ids, shape [N, T].
            scoring: how to score.
            settings: how many workers.
            worker: the class of the actors, with the methods of `ScoringWorker`. Its module is all
                that an actor imports.

        Raises:
            UserError: GPUs without `cuda`, or the other way round.
        """
        self._group = WorkerGroup(teacher, scoring, settings, worker)
        # The driver's own object, which outlives the store.
        self._text = ray.put(np.ascontiguousarray(blocks, np.int32))
        self._queues = LaneQueues()
        self._quarantined: list[Unit] = []
        self._lone_deaths: dict[Unit, int] = {}
        self._finished: list[UnitResult] = []

    @property
    def workers(self) -> int:
        """How many workers have started and are alive."""
        return len(self._group.ready)

    def submit(self, units: Iterable[Unit]) -> None:
        """Queue units, in their lanes' order."""
        for unit in units:
            self._queues.add(unit)
        self._dispatch()

    def cancel(self, lane: str, candidate: str) -> list[Unit]:
        """Drop a candidate's units that no worker has; `wait` returns what comes of the others.

        Returns:
            The units that were dropped.
        """
        return self._queues.cancel(lane, candidate) + self._release(
            [unit for unit in self._quarantined if (unit.lane, unit.candidate) == (lane, candidate)]
        )

    def drop(self, lane: str) -> None:
        """Forget a lane and its units that no worker has."""
        self._queues.remove(lane)
        self._release([unit for unit in self._quarantined if unit.lane == lane])

    def pending(self, lane: str | None = None) -> int:
        """How many units, of a lane or of all, were submitted and not yet returned by `wait`."""
        in_flight = [unit for worker in self._group.workers for unit in worker.units.values()]
        others = [*in_flight, *self._quarantined, *(result.unit for result in self._finished)]
        count = sum(lane is None or unit.lane == lane for unit in others)
        return count + self._queues.size(lane)

    def wait(self, timeout: float) -> list[UnitResult]:
        """Results as they come, in no order that can be relied on.

        Args:
            timeout: seconds after which to return even without any.

        Returns:
            At least one, unless the time has passed or nothing is pending.

        Raises:
            UserError: no worker has started in time, workers die while they start, or the
                teacher or the text cannot be used.
            Exception: whatever a worker raised that is no failure of a candidate.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._poll(min(1.0, max(0.0, deadline - time.monotonic())))
            if self._finished or not self.pending() or time.monotonic() >= deadline:
                results, self._finished = self._finished, []
                return results

    def close(self) -> None:
        """End all workers and free the teacher's weights."""
        self._group.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _poll(self, timeout: float) -> None:
        """Wait for any reference for so long, take in what is ready, hand out what is queued."""
        self._group.refill()
        self._dispatch()
        owners: dict[ray.ObjectRef, Worker] = {}
        for worker in self._group.workers:
            owners.update(dict.fromkeys(worker.units, worker))
            if worker.starting is not None:
                owners[worker.starting] = worker
        references = list(owners)
        ready: list[ray.ObjectRef] = []
        if not references:
            time.sleep(timeout)
        elif ray.wait(references, num_returns=1, timeout=timeout)[0]:
            ready = ray.wait(references, num_returns=len(references), timeout=0)[0]
        for reference in ready:
            worker = owners[reference]
            if worker in self._group.workers:  # it may have died a moment ago, with all its units
                self._take(worker, reference)
        self._dispatch()
        self._group.warn(self._queues.size() + len(self._quarantined))

    def _take(self, worker: Worker, reference: ray.ObjectRef) -> None:
        """Take in a result, the news that a worker has started, or its death."""
        try:
            score = ray.get(reference)
        except DEATHS as error:
            if isinstance(error, ActorDiedError) and error.actor_init_failed:
                raise UserError(f"a scoring worker cannot be made: {_reason(error)}") from error
            self._retry(list(worker.units.values()), _reason(error))
            self._group.replace(worker, _reason(error))
            return
        except RayTaskError as error:
            self._refuse(worker.units.pop(reference, None), error)
            return
        if reference == worker.starting:
            self._group.started(worker)
            return
        unit = worker.units.pop(reference)
        self._lone_deaths.pop(unit, None)
        self._finished.append(
            UnitResult(
                unit,
                score.nll,
                score.tokens,
                score.seconds,
                score.failure,
                score.divergence,
                score.latency,
            )
        )

    def _refuse(self, unit: Unit | None, error: RayTaskError) -> None:
        """A worker has raised what is no failure of a candidate; without a unit, as it started."""
        raise_user_error(error)
        raise error

    def _release(self, units: list[Unit]) -> list[Unit]:
        """Let these units run beside others again."""
        for unit in units:
            self._quarantined.remove(unit)
            del self._lone_deaths[unit]
        return units

    def _retry(self, units: list[Unit], reason: str) -> None:
        """Keep the units of a dead worker in quarantine until each has run alone."""
        for unit in units:
            self._lone_deaths[unit] = self._lone_deaths.get(unit, 0) + (len(units) == 1)
            if self._lone_deaths[unit] < LONE_DEATHS:
                self._quarantined.append(unit)
                continue
            del self._lone_deaths[unit]
            failure = f"killed its worker {LONE_DEATHS} times: {reason}"
            self._finished.append(UnitResult(unit, (), 0, 0.0, failure))

    def _dispatch(self) -> None:
        """Give quarantined units to workers that have nothing else, queued ones to all others."""
        ready = self._group.ready
        for worker in ready:
            if self._quarantined and not worker.units:
                self._give(worker, self._quarantined.pop(0))
        if self._quarantined:
            ready = ready[
                1:
            ]  # the first one runs empty, so that no quarantined unit waits for ever
        held = {worker.candidate for worker in ready if worker.units}
        # One unit for everyone before a second one for anyone.
        for depth in range(UNITS_IN_FLIGHT):
            for worker in ready:
                if len(worker.units) > depth or self._runs_quarantined(worker):
                    continue
                unit = self._queues.take(worker.candidate, held)
                if unit is None:
                    return
                self._give(worker, unit)
                held.add(unit.candidate)

    def _runs_quarantined(self, worker: Worker) -> bool:
        return bool(self._lone_deaths) and any(
            unit in self._lone_deaths for unit in worker.units.values()
        )

    def _text_of(self, unit: Unit) -> ray.ObjectRef:
        """The reference of the token ids that a unit is about."""
        return self._text

    def _give(self, worker: Worker, unit: Unit) -> None:
        reference: ray.ObjectRef = worker.actor.score.remote(
            unit.genome, unit.candidate, [self._text_of(unit)], unit.start, unit.stop
        )
        worker.units[reference] = unit
        worker.candidate = unit.candidate


def _reason(error: Exception) -> str:
    """The last line of an error of Ray, where it says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
