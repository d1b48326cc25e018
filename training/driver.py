"""Run the loop on Ray Train, and show how far it is."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from numpy.typing import NDArray
from ray.train import RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from evo.cluster import connect
from evo.errors import UserError
from training import log
from training.data import Sampler
from training.loop import train
from training.plan import Plan
from training.progress import show_progress
from training.run_directory import CHECKPOINTS
from training.stream import StreamedBlocks, StreamedText
from training.text import Source, TrainingText
from training.worker import Job, Place

MOST_FAILURES = 4
"""So many failures without a further step between them end a run."""


def fit(
    run: Path,
    plan: Plan,
    *,
    student: Path,
    teacher: Path | None,
    teacher_logits: Path | None,
    text: TrainingText,
    validation: NDArray[Any] | None,
    origin: dict[str, Any],
    checkpoint_every: int,
    workers: int,
    gpus_per_worker: float,
    threads: int | None,
    log_blocks: bool,
) -> None:
    """Train to the end of a plan, from the last checkpoint in the run directory if there is one.

    Args:
        run: the run directory, absolute.
        plan: the settings.
        student: checkpoint directory of what is trained.
        teacher: the one of what it is distilled from.
        teacher_logits: of `evo cache-logits`, instead of the teacher.
        text: to train on.
        validation: those of the validation text.
        origin: for the result's `subnet.json`.
        checkpoint_every: steps from one checkpoint to the next.
        workers: how many train in parallel.
        gpus_per_worker: share of a GPU, 0 for the CPU.
        threads: of a worker on the CPU; by default the cores divided by the workers.
        log_blocks: whether each row of the log lists the step's blocks.

    Raises:
        UserError: the loss is not finite, the memory or the disk is full.
    """
    connect()
    cores = ray.cluster_resources().get("CPU", 1.0)
    job = Job(
        plan=plan,
        run=run,
        model=student,
        teacher=teacher,
        teacher_logits=teacher_logits,
        sampler=Sampler(
            plan.batch,
            tuple(source.extent for source in text.sources),
            text.shares,
            plan.seed,
        ),
        text=tuple(_handle(source, number, run) for number, source in enumerate(text.sources)),
        validation=None if validation is None else ray.put(validation),
        origin=origin,
        checkpoint_every=checkpoint_every,
        threads=threads or max(1, len(os.sched_getaffinity(0)) // workers),
        log_blocks=log_blocks,
    )
    resources = {"CPU": min(1.0, cores / workers), "GPU": gpus_per_worker}
    scaling = ScalingConfig(
        num_workers=workers,
        use_gpu=gpus_per_worker > 0,
        resources_per_worker={kind: amount for kind, amount in resources.items() if amount},
    )
    finished = threading.Event()
    progress = threading.Thread(target=show_progress, args=(run, plan, finished), daemon=True)
    progress.start()
    try:
        _fit_again_while_workers_die(job, scaling)
    finally:
        finished.set()
        progress.join()


def _handle(source: Source, number: int, run: Path) -> Any:
    """What a worker gets a source's blocks from."""
    if isinstance(source.blocks, StreamedText):
        return StreamedBlocks(source.blocks, run / f"stream-{number}.jsonl")
    return ray.put(source.blocks)


def _fit_again_while_workers_die(job: Job, scaling: ScalingConfig) -> None:
    """Go on from the last checkpoint after a worker's death, unless it never gets any further.

    Ray Train's own limit counts all failures of a run, however long it is, and would try again
    what the user must put right.
    """
    furthest, failures = -1, 0
    while True:
        try:
            _trainer(job, scaling).fit()
            return
        except TrainingFailedError as error:
            if message := _user_error(error):
                raise UserError(message) from error
            step = max((row["step"] for row in log.rows(job.run)), default=-1)
            failures = 1 if step > furthest else failures + 1
            furthest = max(furthest, step)
            if failures == MOST_FAILURES:
                raise


def _trainer(job: Job, scaling: ScalingConfig) -> TorchTrainer:
    return TorchTrainer(
        _work,
        train_loop_config={"job": job},
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if scaling.num_gpus_per_worker == 1 else "gloo"),
        scaling_config=scaling,
        run_config=RunConfig(name=job.run.name, storage_path=str(job.run / CHECKPOINTS / "ray")),
    )


def _work(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker."""
    job: Job = config["job"]
    text = tuple(ray.get(one) if isinstance(one, ray.ObjectRef) else one for one in job.text)
    validation = None if job.validation is None else ray.get(job.validation)
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    train(
        replace(job, text=text, validation=validation),
        Place(context.get_world_rank(), context.get_world_size(), device),
    )


def _user_error(error: TrainingFailedError) -> str | None:
    """The message of a `UserError` in a worker; Ray Train hands over its traceback as text."""
    kind = f"{UserError.__module__}.{UserError.__qualname__}: "
    for line in map(str.strip, str(error).splitlines()):
        if line.startswith(kind):
            return line.removeprefix(kind)
    return None
