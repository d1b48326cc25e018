"""Trainings side by side on Ray, each by itself in a task: units of work on one worker.

Ray Train is for runs that share their work among workers; its start takes longer than a short
training. A unit's state is its run directory: where its worker has died it is run again, and goes
on from its checkpoint.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from evo.errors import UserError, first_line
from evo.storage.files import exclusive
from training.logs import log
from training.loop.loop import Diverged, train
from training.loop.parallel import WorkerProcess, process_group
from training.loop.train_state import WorkerJob
from training.run_directory import SUMMARY
from training.setup.launch import KEEP_MEMORY, MOST_FAILURES, open_streams, received
from training.setup.worker_resources import WorkerResources

LOOK_SECONDS = 1.0
"""The driver looks at units in training this often, to show how far they are."""

PATIENCE_SECONDS = 60.0
"""For this long a unit waits for the worker of a driver that was killed to leave its directory."""

DIED = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
"""Ray raises these where a worker, its node, or what it was given is gone."""


Result = float | Diverged | None
"""What a unit comes to: the NLL of the validation text, in nats summed over targets, where it is
stopped; None at the end of a run; or why its loss is not finite."""


@dataclass
class Unit:
    """A run that is to be trained up to a step, or to its end.

    Attributes:
        name: what errors call it.
        job: what its worker is given, with the step at which it is stopped.
        furthest: step that it had come to when its worker died last.
        failures: number of times that its worker died without a further step between them.
    """

    name: str
    job: WorkerJob
    furthest: int = field(default=-1, init=False)
    failures: int = field(default=0, init=False)

    def failed(self, error: Exception) -> None:
        """Count a death of its worker.

        Raises:
            UserError: it died again and again without a further step.
        """
        step = log.last_step(self.job.directory)
        self.failures = 1 if step > self.furthest else self.failures + 1
        self.furthest = max(step, self.furthest)
        if self.failures == MOST_FAILURES:
            raise UserError(
                f"{self.name}: its worker died {MOST_FAILURES} times without a further step, "
                f"at last of: {first_line(error)}"
            ) from error


def train_units(
    units: Sequence[Unit],
    workers: WorkerResources,
    *,
    on_end: Callable[[Unit, Result], None],
    on_look: Callable[[], None] = lambda: None,
) -> None:
    """Train units, as many at a time as there are workers.

    Args:
        units: the units.
        workers: how many, and what each takes.
        on_end: is given each unit and its result.
        on_look: called now and then.

    Raises:
        UserError: a unit raised one, or its workers die again and again.
    """
    remote: Any = ray.remote(
        num_cpus=workers.cpus,
        num_gpus=workers.gpus,
        max_retries=0,
        runtime_env={} if workers.gpus else {"env_vars": KEEP_MEMORY},
    )(train_unit)
    waiting, running = deque(units), dict[Any, Unit]()
    try:
        while waiting or running:
            while waiting and len(running) < workers.count:
                unit = waiting.popleft()
                running[remote.remote(unit.job)] = unit
            ended, _ = ray.wait(list(running), timeout=LOOK_SECONDS)
            for reference in ended:
                unit = running.pop(reference)
                try:
                    result = ray.get(reference)
                except RayTaskError as error:
                    if isinstance(error.cause, UserError):
                        raise UserError(f"{unit.name}: {error.cause}") from error
                    raise
                except DIED as error:
                    unit.failed(error)
                    waiting.appendleft(unit)
                else:
                    on_end(unit, result)
            on_look()
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def train_unit(job: WorkerJob) -> Result:
    """Train one run up to a step or to its end, or go on with that; runs on a worker.

    Raises:
        UserError: as `train`, but that a loss is not finite is a result.
    """
    device = torch.device("cuda", 0) if job.settings.device == "cuda" else torch.device("cpu")
    with exclusive(job.directory, patience=PATIENCE_SECONDS), tempfile.TemporaryDirectory() as own:
        if job.stop_after is None and (job.directory / SUMMARY).is_file():
            return None  # while this waited for the directory, another driver has finished it
        job = received(job)
        with process_group(0, 1, f"{own}/store"):
            try:
                return train(replace(job, text=open_streams(job)), WorkerProcess(0, 1, device))
            except Diverged as error:
                return error
