"""One pool for several jobs of a cluster: the detached actor that holds it.

One thread serves the pool; the calls of the jobs leave orders for it and wait for results. A job
is a user while it is heard of; what it has left queued goes with it.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, fields
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, cast

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayTaskError

from evo.errors import UserError
from evo.genome.operators.gate_swaps import GateGradients
from evo.model import checkpoint
from evo.search.shard_score import ShardScore
from evo.storage.names import ascii_name
from workers.pool.pool import Pool
from workers.pool.pool_state import PoolState
from workers.pool.queues import Unit
from workers.pool.scoring_worker import TEXTS
from workers.pool.stored_teacher import store_teacher
from workers.settings import PoolSettings, ScoringSettings

NAMESPACE = "evo"

LEASE = 60.0
"""Seconds after which a job that was not heard of is taken for dead."""

TICK = 0.02
"""Seconds in which new orders are seen while units are in flight."""


@dataclass(frozen=True)
class Submit:
    """A unit, and the number by which its job speaks of it."""

    number: int
    unit: Unit


@dataclass(frozen=True)
class Cancel:
    """A candidate whose units are to be dropped."""

    search: str
    candidate: str


class Welcome(NamedTuple):
    """What a job hears when it enters: how the workers are, and whether any has ever started."""

    state: PoolState
    started: bool


class Answer(NamedTuple):
    """What became of a job's units, by number: scores, and units that were dropped."""

    scores: list[tuple[int, ShardScore | GateGradients]]
    dropped: list[int]
    state: PoolState


@dataclass(frozen=True, kw_only=True)
class JobUnit(Unit):
    """A unit of one of the jobs."""

    job: str
    number: int
    text: ray.ObjectRef


@dataclass
class _Job:
    """A user of the pool; times as `time.monotonic` gives them."""

    text: ray.ObjectRef
    heard: float
    searches: set[str] = field(default_factory=set)
    pending: int = 0
    scores: list[tuple[int, ShardScore | GateGradients]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    error: BaseException | None = None


class _JobsPool(Pool):
    """A pool whose units come from several jobs, each with a text, and errors, of its own."""

    def __init__(self, jobs: dict[str, _Job], *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._jobs = jobs

    def _text_of(self, unit: Unit) -> ray.ObjectRef:
        assert isinstance(unit, JobUnit)
        return unit.text

    def _refuse(self, unit: Unit | None, error: RayTaskError) -> None:
        if not isinstance(unit, JobUnit):
            super()._refuse(unit, error)
        elif unit.job in self._jobs:
            known = isinstance(error.cause, UserError)
            self._jobs[unit.job].error = error.cause if known else error


class SharedPoolActor:
    """The actor. Its calls run in threads of their own."""

    def __init__(
        self,
        name: str,
        teacher: str,
        teacher_hash: str,
        scoring: ScoringSettings,
        settings: PoolSettings,
        idle: float,
        worker: type,
        lease: float = LEASE,
    ) -> None:
        """Start serving.

        The arguments are those of `SharedPool`, the name being the actor's own. A job that was not
        heard of for `lease` seconds is taken for dead.
        """
        self._name, self._teacher, self._teacher_hash = name, Path(teacher), teacher_hash
        self._scoring, self._settings, self._worker = scoring, settings, worker
        self._idle, self._lease = idle, lease
        self._jobs: dict[str, _Job] = {}
        self._texts: OrderedDict[str, ray.ObjectRef] = OrderedDict()
        self._orders: SimpleQueue[tuple[str, list[Submit | Cancel]]] = SimpleQueue()
        self._changed = threading.Condition()
        self._state, self._started = PoolState(), False
        self._error: BaseException | None = None
        self._ending = False
        # Whoever has started it has as long to enter as a job to be heard of.
        self._end_at = time.monotonic() + max(idle, lease)
        threading.Thread(target=self._serve, name="pool", daemon=True).start()

    def enter(
        self, job: str, teacher_hash: str, scoring: ScoringSettings, blocks: NDArray[np.int32]
    ) -> Welcome | None:
        """A job wants to use the pool.

        The job has an id and a text of its own; the blocks are token ids, shape [N, T].

        Returns:
            None where the pool is about to end.

        Raises:
            UserError: the pool scores another teacher, or in another way.
        """
        self._check(teacher_hash, scoring)
        with self._changed:
            if self._ending:
                return None
            self._jobs[job] = _Job(self._text(blocks), time.monotonic())
            return Welcome(self._state, self._started)

    def exchange(self, job: str, orders: list[Submit | Cancel], timeout: float) -> Answer | None:
        """Take a job's orders, and answer when there is something to say, or the time has passed.

        Returns:
            None for a job that has not entered, or was taken for dead.

        Raises:
            Exception: what a worker raised at the job's units, or what ended the pool.
        """
        with self._changed:
            user = self._jobs.get(job)
            if user is None:
                return None
            user.heard = time.monotonic()
            user.pending += sum(isinstance(order, Submit) for order in orders)
            if orders:
                self._orders.put((job, orders))
            self._changed.wait_for(
                lambda: user.scores or user.error or self._error or not user.pending, timeout
            )
            user.heard = time.monotonic()
            if user.error or self._error:
                raise cast(BaseException, user.error or self._error)
            answer = Answer(user.scores, user.dropped, self._state)
            user.scores, user.dropped = [], []
            return answer

    def leave(self, job: str) -> None:
        """A job needs the pool no longer."""
        with self._changed:
            if job in self._jobs:
                self._jobs[job].heard = -np.inf

    def _check(self, teacher_hash: str, scoring: ScoringSettings) -> None:
        other = "give --pool another name"
        if teacher_hash != self._teacher_hash:
            raise UserError(
                f"the pool {self._name} scores the teacher {self._teacher} ({self._teacher_hash}), "
                f"this search another one ({teacher_hash}): {other}"
            )
        for setting in fields(scoring):
            ours, theirs = getattr(self._scoring, setting.name), getattr(scoring, setting.name)
            if ours != theirs:
                raise UserError(
                    f"the pool {self._name} scores with {setting.name} {ours}, this search with "
                    f"{theirs}: {other}, or use the same"
                )

    def _text(self, blocks: NDArray[np.int32]) -> ray.ObjectRef:
        """The reference of a text; the latest are kept, so that the workers know them again."""
        key = hashlib.blake2b(repr(blocks.shape).encode() + blocks.tobytes()).hexdigest()
        if key not in self._texts:
            self._texts[key] = ray.put(np.array(blocks))  # our own, which outlives the job's
            if len(self._texts) > TEXTS:
                self._texts.popitem(last=False)
        self._texts.move_to_end(key)
        return self._texts[key]

    def _serve(self) -> None:
        """The thread: until nobody needs the pool any more, or it breaks."""
        try:
            none = np.empty((0, 1), np.int32)
            teacher = store_teacher(checkpoint.load(self._teacher))
            with _JobsPool(
                self._jobs, teacher, none, self._scoring, self._settings, self._worker
            ) as pool:
                while not self._is_over(pool):
                    self._step(pool)
        except Exception as error:  # whatever it is, it is the jobs' to hear
            with self._changed:
                self._error, self._ending = error, True
                self._changed.notify_all()
            deadline = time.monotonic() + self._lease
            while self._jobs and time.monotonic() < deadline:
                self._forget()
                time.sleep(TICK)
        ray.kill(ray.get_actor(ascii_name(self._name), NAMESPACE))

    def _step(self, pool: Pool) -> None:
        for job, orders in self._new_orders(wait=not pool.pending()):
            self._obey(pool, job, orders)
        scored = pool.wait(TICK if pool.pending() else 0)
        with self._changed:
            self._state = pool.state()
            self._started = self._started or self._state.alive > 0
            for unit, score in scored:
                assert isinstance(unit, JobUnit)
                if unit.job in self._jobs:
                    user = self._jobs[unit.job]
                    user.scores.append((unit.number, score))
                    user.pending -= 1
            self._changed.notify_all()

    def _new_orders(self, *, wait: bool) -> list[tuple[str, list[Submit | Cancel]]]:
        """What the jobs have asked for; where nothing else is to be done, wait for it a second."""
        found = []
        try:
            found.append(self._orders.get(timeout=1.0 if wait else 0))
            while True:
                found.append(self._orders.get_nowait())
        except Empty:
            return found

    def _obey(self, pool: Pool, job: str, orders: list[Submit | Cancel]) -> None:
        with self._changed:
            user = self._jobs.get(job)
            if user is None:
                return
            units: list[Unit] = []
            for order in orders:
                if isinstance(order, Submit):
                    units.append(self._unit(job, user, order))
                    continue
                pool.submit(units)
                units = []
                for dropped in pool.cancel(f"{job}/{order.search}", order.candidate):
                    assert isinstance(dropped, JobUnit)
                    user.dropped.append(dropped.number)
                    user.pending -= 1
            pool.submit(units)

    def _unit(self, job: str, user: _Job, order: Submit) -> JobUnit:
        search = f"{job}/{order.unit.search}"
        user.searches.add(search)
        unit = vars(order.unit) | {"search": search}
        return JobUnit(**unit, job=job, number=order.number, text=user.text)

    def _is_over(self, pool: Pool) -> bool:
        """Whether nobody has been there for long enough; those not heard of are sent away."""
        with self._changed:
            for search in self._forget():
                pool.drop(search)
            self._ending = not self._jobs and time.monotonic() > self._end_at
            return self._ending

    def _forget(self) -> list[str]:
        """The searches of jobs that have left, or are silent: those are users no longer."""
        now = time.monotonic()
        searches: list[str] = []
        with self._changed:
            for job, user in list(self._jobs.items()):
                if now - user.heard > self._lease:
                    searches += user.searches
                    del self._jobs[job]
                    self._end_at = now + self._idle
        return searches
