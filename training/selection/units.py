"""The units of work of a train-off, on Ray: one finalist, trained up to a step.

A unit runs the training loop by itself in a task. Its state is the run directory: one whose worker
has died is run again, and goes on from its checkpoint.
"""

from __future__ import annotations

import math
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
from training.selection.rounds import Score
from training.setup.launch import KEEP_MEMORY, MOST_FAILURES, open_streams, received
from training.setup.worker_resources import WorkerResources

LOOK_SECONDS = 1.0
"""The driver looks at units in training this often, to show how far they are."""

PATIENCE_SECONDS = 60.0
"""For this long a unit waits for the worker of a driver that was killed to leave its directory."""

DIED = (WorkerCrashedError, NodeDiedError, OutOfMemoryError, ObjectLostError)
"""Ray raises these where a worker, its node, or what it was given is gone."""


@dataclass
class Unit:
    """A finalist that is to be trained up to a step.

    Attributes:
        candidate: the finalist.
        step: the step.
        job: what its worker is given.
        furthest: step that it had come to when its worker died last.
        failures: number of times that its worker died without a further step between them.
    """

    candidate: str
    step: int
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
                f"{self.candidate}: its worker died {MOST_FAILURES} times without a further step, "
                f"at last of: {first_line(error)}"
            ) from error


def train_units(
    units: Sequence[Unit],
    workers: WorkerResources,
    *,
    on_score: Callable[[Unit, Score], None],
    on_look: Callable[[], None],
) -> None:
    """Train units, as many at a time as there are workers.

    Args:
        units: the units.
        workers: how many, and what each takes.
        on_score: is given each unit's score when it ends.
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
                running[remote.remote(unit.job, unit.step)] = unit
            ended, _ = ray.wait(list(running), timeout=LOOK_SECONDS)
            for reference in ended:
                unit = running.pop(reference)
                try:
                    on_score(unit, ray.get(reference))
                except RayTaskError as error:
                    if isinstance(error.cause, UserError):
                        raise UserError(f"{unit.candidate}: {error.cause}") from error
                    raise
                except DIED as error:
                    unit.failed(error)
                    waiting.appendleft(unit)
            on_look()
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def train_unit(job: WorkerJob, step: int) -> Score:
    """Train one finalist up to a step, or go on with that, and score it; runs on a worker.

    Args:
        job: what the worker is given.
        step: step at which to stop.

    Raises:
        UserError: as `train`, but that a loss is not finite is a score.
    """
    device = torch.device("cuda", 0) if job.settings.device == "cuda" else torch.device("cpu")
    with exclusive(job.directory, patience=PATIENCE_SECONDS), tempfile.TemporaryDirectory() as own:
        job = received(job)
        with process_group(0, 1, f"{own}/store"):
            try:
                nll = train(
                    replace(job, text=open_streams(job)),
                    WorkerProcess(0, 1, device),
                    stop_after=step,
                )
            except Diverged as error:
                return Score(None, str(error))
    if nll is None or not math.isfinite(nll):
        return Score(None, f"the NLL of the validation text is {nll} after step {step}")
    return Score(nll)
