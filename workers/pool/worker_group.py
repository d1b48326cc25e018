"""The pool's workers: asked for, started, replaced when they die, and spoken of when they lack."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from evo.errors import UserError
from workers.pool.queues import Unit
from workers.pool.ray_internals import available_resources_per_node
from workers.pool.teacher_store import create_store, fetch_teacher
from workers.scoring.scorer import Scorer, ShardScore
from workers.settings import PoolSettings, ScoringSettings

logger = logging.getLogger("evo.pool")

START_DEATHS = 5
"""So many workers may die in a row while they start, before the worker group gives up."""

RESTART_PAUSE = 5.0
"""Seconds before a worker that died while it started is replaced, times the deaths in a row."""

LOOK_INTERVAL = 2.0
"""Seconds between looks at what the cluster has free."""

DEATHS_INTERVAL = 10.0
"""Seconds between messages about workers that died: those of one node die within seconds."""

TEXTS = 8
"""So many texts a worker has at hand, the latest."""

MESSAGE_INTERVAL = 60.0
"""Seconds between messages while no worker is alive, and before too few are spoken of."""


class ScoringWorker:
    """The actor: a `Scorer` of each text over the store's shared weights."""

    def __init__(self, work: list[ray.ObjectRef]) -> None:
        """Does nothing yet: see `start`.

        Args:
            work: one reference to a pair: the store whose teacher to score, and the
                `ScoringSettings`; in a list, which Ray leaves alone.
        """
        self._work = work[0]
        self._scorers: OrderedDict[ray.ObjectRef, Scorer] = OrderedDict()
        self._making = threading.Lock()

    def start(self) -> None:
        """Fetch the weights. No part of `__init__`, so that an error keeps its kind."""
        work: tuple[ActorHandle, ScoringSettings] = ray.get(self._work)
        store, self._settings = work
        torch.set_num_threads(self._settings.threads)
        self._teacher = fetch_teacher(store)

    def score(
        self, genome: bytes, candidate: str, text: list[ray.ObjectRef], start: int, stop: int
    ) -> ShardScore:
        """One unit of work.

        Args:
            genome: as `Subnet.pack` makes it.
            candidate: the subnet's id.
            text: one reference to token ids, shape [N, T]; fetched when it is first met.
            start: the shard's first block.
            stop: the one after its last block.
        """
        return self._scorer(text[0]).score(genome, candidate, (start, stop))

    def _scorer(self, text: ray.ObjectRef) -> Scorer:
        with self._making:
            if text not in self._scorers:
                teacher = self._teacher
                scorer = Scorer(
                    teacher.config, teacher.weights, teacher.tied, ray.get(text), self._settings
                )
                teacher.weights = scorer.weights  # of which there is one copy on a GPU
                self._scorers[text] = scorer
                if len(self._scorers) > TEXTS:
                    self._scorers.popitem(last=False)
            self._scorers.move_to_end(text)
            return self._scorers[text]


@dataclass(eq=False)
class Worker:
    """The driver's side of an actor.

    Attributes:
        actor: its handle.
        starting: the reference that is ready when it has started; then None.
        units: in flight, by the reference of their result.
        candidate: which it was given last, and so holds.
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
    """

    def __init__(
        self,
        teacher: Path,
        scoring: ScoringSettings,
        settings: PoolSettings,
        worker: type,
    ) -> None:
        """Ask for the workers; returns at once.

        Args:
            teacher: a checkpoint directory.
            scoring: how to score.
            settings: how many workers.
            worker: the class of the actors.

        Raises:
            UserError: GPUs without `cuda`, or the other way round.
        """
        if (scoring.device == "cuda") != (settings.gpus_per_worker > 0):
            raise UserError(
                f"device {scoring.device} and {settings.gpus_per_worker:g} GPUs per worker do not "
                "fit together: scoring on cuda needs GPUs, on cpu none"
            )
        self.workers: list[Worker] = []
        self._resources: dict[str, float] = {"CPU": scoring.threads}
        if settings.gpus_per_worker:
            self._resources["GPU"] = settings.gpus_per_worker
        self._asked = settings.workers
        self._start_timeout = settings.start_timeout
        self._began = self._quiet_since = time.monotonic()
        self._has_started = self._has_warned = False
        self._start_deaths = 0
        self._no_start_before = self._no_look_before = self._no_death_warning_before = 0.0
        self._deaths: list[int] = []
        self._store = create_store(teacher)
        # By reference: a worker that does not look at it need not import what it is made of.
        self._work = ray.put((self._store, scoring))
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
    def ready(self) -> list[Worker]:
        """The workers that have started and are alive, the oldest first."""
        return [worker for worker in self.workers if worker.starting is None]

    def refill(self) -> None:
        """Ask for the workers that are missing; Ray starts them where and when there is room."""
        if time.monotonic() < self._no_start_before:
            return
        for _ in range(self._missing()):
            actor = self._actor_class.remote([self._work])
            self.workers.append(Worker(actor, actor.start.remote()))

    def _missing(self) -> int:
        """How many workers to ask for: as many as were asked of us, or all that is free."""
        if self._asked is not None:
            return self._asked - len(self.workers)
        if not self.workers:
            return max(1, self._room(available_resources_per_node().values()))
        now = time.monotonic()
        if now < self._no_look_before or len(self.ready) < len(self.workers):
            return 0  # those that start would be counted twice
        self._no_look_before = now + LOOK_INTERVAL
        return self._room(available_resources_per_node().values())

    def started(self, worker: Worker) -> None:
        """A worker has said that it is ready."""
        worker.starting = None
        self._no_look_before = time.monotonic() + LOOK_INTERVAL  # what it took shows a little later
        self._has_started = True
        self._start_deaths = 0

    def replace(self, worker: Worker, reason: str) -> None:
        """A worker is dead, or cannot be reached; `refill` replaces it.

        Raises:
            UserError: workers die again and again, and none has ever started.
        """
        self.workers.remove(worker)
        ray.kill(worker.actor)  # one that is only out of reach must not score on
        self._deaths.append(len(worker.units))
        self._death = reason
        if worker.starting is None:
            return
        self._start_deaths += 1
        self._no_start_before = time.monotonic() + RESTART_PAUSE * self._start_deaths
        if self._start_deaths >= START_DEATHS and not self._has_started:
            raise UserError(
                f"scoring workers die while they start ({self._start_deaths} times in a row): "
                f"{reason}"
            )

    def warn(self, waiting: int) -> None:
        """Say it when workers have died or are missing, and give up if none has ever come.

        Args:
            waiting: units that no worker has.

        Raises:
            UserError: no worker has started within the timeout.
        """
        now, alive = time.monotonic(), len(self.ready)
        waited = now - self._began
        if self._deaths and now > self._no_death_warning_before:
            self._warn_of_deaths()
            self._no_death_warning_before = now + DEATHS_INTERVAL
        if not self._has_started and waited > self._start_timeout:
            raise UserError(
                f"no scoring worker has started in {waited:.0f} s: asked for "
                f"{self._asked or len(self.workers)} with {_described(self._resources)} each, "
                "the cluster has "
                f"{_described(ray.cluster_resources())}, of that free "
                f"{_described(ray.available_resources())}"
            )
        asked = self._asked or 0
        if 0 < alive < asked and not self._has_warned:
            total = self._room(node["Resources"] for node in ray.nodes() if node["Alive"])
            if total < asked or waited > MESSAGE_INTERVAL:
                self._has_warned = True
                logger.warning(
                    "asked for %d workers, %d are running, waiting for resources", asked, alive
                )
        if alive or not self._has_started:
            self._quiet_since = now
        elif now - self._quiet_since > MESSAGE_INTERVAL:
            self._quiet_since = now
            cluster = _described(ray.cluster_resources())
            logger.warning(
                "no worker is alive, %d units wait; the cluster has %s", waiting, cluster
            )

    def close(self) -> None:
        """End all workers and the store."""
        if self._deaths:
            self._warn_of_deaths()
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers.clear()
        ray.kill(self._store)

    def _warn_of_deaths(self) -> None:
        logger.warning(
            "%d workers died with %d units in flight, which are scored again: %s",
            len(self._deaths),
            sum(self._deaths),
            self._death,
        )
        self._deaths.clear()

    def _room(self, nodes: Iterable[dict[str, float]]) -> int:
        """How many workers nodes with these resources can hold together."""
        return sum(
            min(int(node.get(name, 0) / amount + 1e-6) for name, amount in self._resources.items())
            for node in nodes
        )


def _described(resources: dict[str, float]) -> str:
    return " and ".join(f"{resources.get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
