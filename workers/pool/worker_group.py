"""The workers of a pool: how many there are, and how the dead are replaced."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle

from evo.errors import UserError
from workers.pool.queues import Unit
from workers.pool.ray_internals import available_resources_per_node
from workers.pool.stored_teacher import StoredTeacher
from workers.pool.worker_messages import MESSAGE_INTERVAL, WorkerMessages
from workers.settings import PoolSettings, ScoringSettings

START_DEATHS = 5
"""The worker group gives up when this number of workers in a row has died while starting."""

RESTART_PAUSE = 5.0
"""Seconds before a worker that died while it started is replaced, times the deaths in a row."""

LOOK_INTERVAL = 2.0
"""Seconds between looks at what the cluster has free."""


@dataclass(eq=False)
class WorkerHandle:
    """The driver's side of an actor.

    Attributes:
        actor: Ray's handle.
        starting: the reference that is ready when the actor has started; then None.
        units: in flight, by the reference of their score.
        candidate: the candidate that it was given last, whose weights it holds.
    """

    actor: ActorHandle
    starting: ray.ObjectRef | None
    units: dict[ray.ObjectRef, Unit] = field(default_factory=dict)
    candidate: str | None = None


class WorkerGroup:
    """Keeps as many workers as were asked for, or as many as the cluster has room for.

    In the second case it takes what is free, from time to time, and what leaves is not missed.

    Attributes:
        workers: those that live or wait for resources.
        restarts: workers that have died so far.
    """

    def __init__(
        self,
        teacher: StoredTeacher,
        scoring: ScoringSettings,
        settings: PoolSettings,
        worker: type,
    ) -> None:
        """Ask for the workers; returns at once."""
        self.workers: list[WorkerHandle] = []
        self.restarts = 0
        self._resources: dict[str, float] = {"CPU": scoring.threads}
        if settings.gpus_per_worker:
            self._resources["GPU"] = settings.gpus_per_worker
        self._messages = WorkerMessages(self._resources)
        self._asked, self._start_timeout = settings.workers, settings.start_timeout
        self._began = time.monotonic()
        self._has_started = False
        self._start_deaths = 0
        self._no_start_before = self._no_look_before = 0.0
        # It is a reference: a worker that does not look at it need not import what it is made of.
        self._work = ray.put((teacher, scoring))
        options: dict[str, Any] = {
            "num_cpus": scoring.threads,
            "num_gpus": settings.gpus_per_worker,
            "max_restarts": 0,  # the dead are replaced here, and counted
            "max_task_retries": 0,
            # On a GPU, one unit's weights are gathered while another one runs.
            "max_concurrency": 2 if scoring.device == "cuda" else 1,
        }
        self._actor_class: Any = ray.remote(**options)(worker)
        self.refill()

    @property
    def ready(self) -> list[WorkerHandle]:
        """The workers that have started and are alive, the oldest first."""
        return [worker for worker in self.workers if worker.starting is None]

    @property
    def wanted(self) -> int:
        """Workers that were asked for."""
        return self._asked if self._asked is not None else len(self.workers)

    def refill(self) -> None:
        """Ask for the workers that are missing; Ray starts them where and when there is room."""
        if time.monotonic() < self._no_start_before:
            return
        for _ in range(self._missing()):
            actor = self._actor_class.remote([self._work])
            self.workers.append(WorkerHandle(actor, actor.start.remote()))

    def started(self, worker: WorkerHandle) -> None:
        """A worker has said that it is ready."""
        worker.starting = None
        self._no_look_before = time.monotonic() + LOOK_INTERVAL  # what it took shows a little later
        self._has_started = True
        self._start_deaths = 0

    def replace(self, worker: WorkerHandle, reason: str) -> None:
        """A worker is dead, or cannot be reached; `refill` replaces it.

        Raises:
            UserError: workers die again and again, and none has ever started.
        """
        self.workers.remove(worker)
        self.restarts += 1
        ray.kill(worker.actor)  # one that is only out of reach must not score on
        self._messages.died(len(worker.units), reason)
        if worker.starting is None:
            return
        self._start_deaths += 1
        self._no_start_before = time.monotonic() + RESTART_PAUSE * self._start_deaths
        if self._start_deaths >= START_DEATHS and not self._has_started:
            raise UserError(
                f"scoring workers die while they start ({self._start_deaths} times in a row): "
                f"{reason}"
            )

    def check(self, waiting: int) -> None:
        """Log it when workers have died or are missing, and give up if none has ever come.

        `waiting` is the number of units that no worker has.

        Raises:
            UserError: no worker has started within the timeout.
        """
        alive, asked = len(self.ready), self._asked or 0
        waited = time.monotonic() - self._began
        self._messages.log_deaths()
        if not self._has_started and waited > self._start_timeout:
            raise UserError(
                self._messages.none_has_started(self._asked or len(self.workers), waited)
            )
        if 0 < alive < asked and not self._messages.has_mentioned_lack:
            room = self._room(node["Resources"] for node in ray.nodes() if node["Alive"])
            # While the cluster has room for all, the others are about to start.
            if waited > MESSAGE_INTERVAL or room < asked:
                self._messages.log_lack(asked, alive)
        self._messages.log_none_alive(waiting, is_so=self._has_started and not alive)

    def close(self) -> None:
        """End all workers."""
        self._messages.log_deaths(at_once=True)
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers.clear()

    def _missing(self) -> int:
        """How many workers to ask for: the rest of a fixed number, or all that is free."""
        if self._asked is not None:
            return self._asked - len(self.workers)
        if not self.workers:
            return max(1, self._room(available_resources_per_node().values()))
        now = time.monotonic()
        if now < self._no_look_before or len(self.ready) < len(self.workers):
            return 0  # those that start would be counted twice
        self._no_look_before = now + LOOK_INTERVAL
        return self._room(available_resources_per_node().values())

    def _room(self, nodes: Iterable[dict[str, float]]) -> int:
        """How many workers nodes with these resources can hold together."""
        return sum(
            min(int(node.get(name, 0) / amount + 1e-6) for name, amount in self._resources.items())
            for node in nodes
        )
