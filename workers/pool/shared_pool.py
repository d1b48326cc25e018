"""One pool for several jobs of a cluster, under a name: a job's side of it.

The pool's side is a detached actor (`workers.pool.shared_pool_actor`), so it belongs to no job: it
loads the teacher, and owns the weights, the texts and the workers. Whatever ends that actor, a job
starts another one and submits again what it has had no result of.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from evo.errors import UserError
from evo.storage.names import ascii_name
from workers.errors import raise_user_error
from workers.pool.pool import ScoredUnit
from workers.pool.pool_state import PoolState
from workers.pool.queues import Unit
from workers.pool.scoring_worker import ScoringWorker
from workers.pool.shared_pool_actor import (
    NAMESPACE,
    Answer,
    Cancel,
    SharedPoolActor,
    Submit,
    Welcome,
)
from workers.settings import POOL_IDLE, PoolSettings, ScoringSettings

logger = logging.getLogger("evo.pool")

LONGEST_CALL = 10.0
"""Seconds after which a job that waits is heard of again."""

ATTEMPTS = 5
"""A job gives up when its pool has ended this number of times in a row."""

PAUSE = 0.5
"""Seconds between attempts to enter a pool that is just ending."""


class SharedPool:
    """A pool that several jobs share. Has what `Pool` has, and a name.

    What was asked of it is sent with the next `wait`, so `pending` counts a cancelled candidate's
    units until then.

    Example:
        ```python
        with SharedPool("pythia", path, hash, blocks, ScoringSettings(), PoolSettings()) as pool:
            pool.submit(units)
            while pool.pending():
                for unit, score in pool.wait(1.0):
                    ...
        ```

    """

    def __init__(
        self,
        name: str,
        teacher: Path,
        teacher_hash: str,
        blocks: NDArray[np.integer],
        scoring: ScoringSettings,
        settings: PoolSettings,
        *,
        idle: float = POOL_IDLE,
        worker: type = ScoringWorker,
    ) -> None:
        """Enter the pool, or start it where no job has. Ray must have been initialised.

        Args:
            name: of the pool, on this cluster.
            teacher: a checkpoint directory; read by the job that starts the pool.
            teacher_hash: of its weights.
            blocks: token ids, shape [N, T]; may differ from job to job.
            scoring: how to score.
            settings: how many workers; counts where this job starts the pool.
            idle: seconds for which the pool waits for the next job when its last one has left;
                counts where this job starts the pool.
            worker: the class of the actors, as for `Pool`.

        Raises:
            UserError: the pool has another teacher or scores in another way, or cannot start.
        """
        self._name = name
        self._blocks = np.ascontiguousarray(blocks, np.int32)
        self._teacher, self._teacher_hash = Path(teacher).resolve(), teacher_hash
        self._scoring, self._settings = scoring, settings
        self._idle, self._worker = idle, worker
        self._units: dict[int, Unit] = {}
        self._orders: list[Submit | Cancel] = []
        self._number = 0
        self._state = PoolState()
        self._host: ActorHandle | None = None
        welcome = self._enter()
        if welcome.started:
            count = "1 worker" if self.workers == 1 else f"{self.workers} workers"
            logger.info("sharing the pool %s: teacher loaded, %s", name, count)
        else:
            logger.info("the pool %s has no worker yet: it is loading the teacher", name)

    @property
    def workers(self) -> int:
        """How many had started and were alive when it was last heard of."""
        return self._state.alive

    def state(self) -> PoolState:
        """How its workers were then."""
        return self._state

    def submit(self, units: Iterable[Unit]) -> None:
        """Queue units, in the order of their searches."""
        for unit in units:
            self._number += 1
            self._units[self._number] = unit
            self._orders.append(Submit(self._number, unit))

    def cancel(self, search: str, candidate: str) -> None:
        """Drop a candidate's units that no worker has; `wait` returns what comes of the others."""
        self._orders.append(Cancel(search, candidate))

    def pending(self, search: str | None = None) -> int:
        """How many units, of a search or of all, were submitted and not yet returned by `wait`."""
        return sum(search in (None, unit.search) for unit in self._units.values())

    def wait(self, timeout: float) -> list[ScoredUnit]:
        """Scored units as they come, in no order that can be relied on; waits `timeout` seconds.

        Returns:
            At least one unit, unless the time has passed or nothing is pending.

        Raises:
            UserError: as `Pool.wait`, or the pool ends again and again.
            Exception: whatever a worker raised, at this job's units, that is no failure of a
                candidate.
        """
        deadline = time.monotonic() + timeout
        while True:
            answer = self._exchange(max(0.0, deadline - time.monotonic()))
            self._state = answer.state
            for number in answer.dropped:
                del self._units[number]
            scored = [(self._units.pop(number), score) for number, score in answer.scores]
            if scored or not self._units or time.monotonic() >= deadline:
                return scored

    def close(self) -> None:
        """Leave the pool, with all that is still queued."""
        if self._host is not None:
            host, self._host = self._host, None
            with contextlib.suppress(RayActorError):  # it has ended by itself
                ray.get(host.leave.remote(self._job))

    def __enter__(self) -> SharedPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, timeout: float) -> Answer:
        """Send what was asked for, and hear what there is."""
        orders, self._orders = self._orders, []
        for _ in range(ATTEMPTS):
            answer = self._call("exchange", self._job, orders, min(timeout, LONGEST_CALL))
            if answer is not None:
                return answer
            logger.warning("the pool %s has ended under this search: starting again", self._name)
            self._enter()
            # Orders keep their order after what was submitted before: a candidate may be cancelled,
            # and then have units of another kind.
            latest = {order.number for order in orders if isinstance(order, Submit)}
            before = [number for number in self._units if number not in latest]
            orders = [*(Submit(number, self._units[number]) for number in before), *orders]
        raise UserError(
            f"the pool {self._name} has ended {ATTEMPTS} times in a row: see Ray's logs"
        )

    def _enter(self) -> Welcome:
        """Enter the pool of this name, which may have to be started, or to end first."""
        options: dict[str, Any] = {
            "name": ascii_name(self._name),
            "namespace": NAMESPACE,
            "lifetime": "detached",
            "get_if_exists": True,
            "num_cpus": 0,
            "max_concurrency": 64,  # calls that wait, one for each job
        }
        host_class: Any = ray.remote(**options)(SharedPoolActor)
        deadline = time.monotonic() + self._settings.start_timeout
        while True:
            self._host = host_class.remote(
                self._name, str(self._teacher), self._teacher_hash, self._scoring,
                self._settings, self._idle, self._worker,
            )  # fmt: skip
            self._job = secrets.token_hex(8)  # no result of an earlier entry is mistaken for ours
            welcome = self._call(
                "enter", self._job, self._teacher_hash, self._scoring, self._blocks
            )
            if welcome is not None:
                self._state = welcome.state
                return welcome
            if time.monotonic() > deadline:
                raise UserError(
                    f"the pool {self._name} neither starts nor ends: Ray's logs say why"
                )
            time.sleep(PAUSE)

    def _call(self, method: str, *arguments: object) -> Any:
        """None where there is no pool to answer, or it does not know this job."""
        try:
            return ray.get(getattr(self._host, method).remote(*arguments))
        except RayTaskError as error:
            raise_user_error(error)
            raise
        except RayActorError:
            return None
