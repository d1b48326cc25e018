"""Ray actors that score units of work: dispatch, and retries of what a dead worker had in flight.

The unit of work is one candidate on one shard. Which worker scores which unit, and when, depends
on timing; what a unit scores does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

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
from evo.genome.operators.gate_swaps import GateGradients
from evo.search.shard_score import ShardScore
from workers.errors import raise_user_error
from workers.pool.pool_state import PoolState
from workers.pool.quarantine import LONE_DEATHS, Quarantine
from workers.pool.queues import FairQueues, Unit
from workers.pool.scoring_worker import ScoringWorker
from workers.pool.stored_teacher import StoredTeacher
from workers.pool.worker_group import WorkerGroup, WorkerHandle
from workers.settings import PoolSettings, ScoringSettings, check_devices

ScoredUnit = tuple[Unit, ShardScore | GateGradients]
"""A unit and what has come of it: gradients where it asked for them, unless that failed."""

UNITS_IN_FLIGHT = 2
"""Per worker: one to score, one that waits there, so that a worker never waits for the driver."""

DEATHS = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError)


class Pool:
    """Workers that score the subnets of one teacher on one text.

    Everything happens within the calls: nothing is dispatched while the driver does not wait.
    Workers belong to the driver's job and end with it.

    Example:
        ```python
        teacher = store_teacher(checkpoint.load(path))
        with Pool(teacher, blocks, ScoringSettings(), PoolSettings(workers=2)) as pool:
            pool.submit(units)
            while pool.pending():
                for unit, score in pool.wait(1.0):
                    ...
        ```
    """

    def __init__(
        self,
        teacher: StoredTeacher,
        blocks: NDArray[np.integer],
        scoring: ScoringSettings,
        settings: PoolSettings,
        worker: type = ScoringWorker,
    ) -> None:
        """Ask Ray, which must have been initialised, for the workers; returns at once.

        Args:
            teacher: whose subnets are scored.
            blocks: token ids, shape [N, T].
            scoring: how to score.
            settings: how many workers.
            worker: the class of the actors, with the methods of `ScoringWorker`. Its module is all
                that an actor imports.

        Raises:
            UserError: GPUs without `cuda`, or the other way round.
        """
        check_devices(scoring, settings)
        self._group = WorkerGroup(teacher, scoring, settings, worker)
        self._text = ray.put(np.ascontiguousarray(blocks, np.int32))
        self._queues = FairQueues()
        self._quarantine = Quarantine()
        self._scored: list[ScoredUnit] = []

    @property
    def workers(self) -> int:
        """How many workers have started and are alive."""
        return len(self._group.ready)

    def state(self) -> PoolState:
        """How its workers are."""
        ready = self._group.ready
        return PoolState(
            wanted=self._group.wanted,
            alive=len(ready),
            busy=sum(bool(worker.units) for worker in ready),
            queued=self._queues.size() + len(self._quarantine),
            restarts=self._group.restarts,
        )

    def submit(self, units: Iterable[Unit]) -> None:
        """Queue units, in the order of their searches."""
        for unit in units:
            self._queues.add(unit)
        self._dispatch()

    def cancel(self, search: str, candidate: str) -> list[Unit]:
        """Drop a candidate's units that no worker has; `wait` returns what comes of the others.

        Returns:
            The units that were dropped.
        """
        return self._queues.cancel(search, candidate) + self._quarantine.drop(search, candidate)

    def drop(self, search: str) -> None:
        """Forget a search and its units that no worker has."""
        self._queues.remove(search)
        self._quarantine.drop(search)

    def pending(self, search: str | None = None) -> int:
        """How many units, of a search or of all, were submitted and not yet returned by `wait`."""
        in_flight = [unit for worker in self._group.workers for unit in worker.units.values()]
        others = [*in_flight, *self._quarantine, *(unit for unit, _ in self._scored)]
        count = sum(search in (None, unit.search) for unit in others)
        return count + self._queues.size(search)

    def wait(self, timeout: float) -> list[ScoredUnit]:
        """Scored units as they come, in no order that can be relied on.

        Args:
            timeout: seconds after which to return even without any.

        Returns:
            At least one unit, unless the time has passed or nothing is pending.

        Raises:
            UserError: no worker has started in time, workers die while they start, or the
                text cannot be used.
            Exception: whatever a worker raised that is no failure of a candidate.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._poll(min(1.0, max(0.0, deadline - time.monotonic())))
            if self._scored or not self.pending() or time.monotonic() >= deadline:
                scored, self._scored = self._scored, []
                return scored

    def close(self) -> None:
        """End all workers."""
        self._group.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _poll(self, timeout: float) -> None:
        """Wait for any reference for so long, take in what is ready, hand out what is queued."""
        self._group.refill()
        self._dispatch()
        owners: dict[ray.ObjectRef, WorkerHandle] = {}
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
        self._group.check(self._queues.size() + len(self._quarantine))

    def _take(self, worker: WorkerHandle, reference: ray.ObjectRef) -> None:
        """Take in a score, the news that a worker has started, or its death."""
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
        self._quarantine.scored(unit)
        self._scored.append((unit, score))

    def _refuse(self, unit: Unit | None, error: RayTaskError) -> None:
        """A worker has raised what is no failure of a candidate; without a unit, as it started."""
        raise_user_error(error)
        raise error

    def _retry(self, units: list[Unit], reason: str) -> None:
        """Keep the units of a dead worker in quarantine until each has run alone."""
        for unit in self._quarantine.add(units):
            failure = f"killed its worker {LONE_DEATHS} times: {reason}"
            self._scored.append((unit, ShardScore.failed(failure)))

    def _dispatch(self) -> None:
        """Give quarantined units to workers that have nothing else, queued ones to all others."""
        ready = self._group.ready
        for worker in ready:
            if self._quarantine and not worker.units:
                self._give(worker, self._quarantine.next())
        if self._quarantine:
            ready = ready[1:]  # the oldest runs empty, so that no quarantined unit waits for ever
        held = {worker.candidate for worker in ready if worker.units}
        # One unit for everyone before a second one for anyone.
        for depth in range(UNITS_IN_FLIGHT):
            for worker in ready:
                if len(worker.units) > depth or self._quarantine.holds_any(worker.units.values()):
                    continue
                unit = self._queues.take(worker.candidate, held)
                if unit is None:
                    return
                self._give(worker, unit)
                held.add(unit.candidate)

    def _text_of(self, unit: Unit) -> ray.ObjectRef:
        """The reference of the token ids that a unit is about."""
        return self._text

    def _give(self, worker: WorkerHandle, unit: Unit) -> None:
        actor, text = worker.actor, [self._text_of(unit)]
        reference: ray.ObjectRef
        if unit.kind == "gates":
            reference = actor.gates.remote(unit.genome, text, unit.start, unit.stop)
        else:
            reference = actor.score.remote(unit.genome, unit.candidate, text, unit.start, unit.stop)
            worker.candidate = unit.candidate
        worker.units[reference] = unit


def _reason(error: Exception) -> str:
    """The last line of an error of Ray, where it says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
