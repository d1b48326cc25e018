"""One worker's part of a run: what it is given, and what it holds while it trains."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from evo.model import checkpoint
from evo.model.layerwise_gpt import without_idle_windows
from evo.model.litgpt import GPT
from training.data.sampler import Sampler
from training.loop.attention import use_float32_attention
from training.loop.init_weights import initialise
from training.loop.parallel import Execution, WorkerProcess, compile_blocks, shard, spread_student
from training.loop.run_settings import RunSettings
from training.loop.student import Student
from training.teacher.network import TeacherNetwork, load_teacher, teacher_dtype
from training.teacher.stored_logits import TeacherLogits

BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Keep:
    """Which checkpoints are kept.

    Attributes:
        last: number of the last ones.
        every: steps from one that is kept for good to the next; None: none is.
        trunk: the step before the learning rate falls, kept for good; None: it falls all along.
    """

    last: int = 1
    every: int | None = None
    trunk: int | None = None

    def for_good(self, step: int) -> bool:
        """Whether the checkpoint of a step is never removed."""
        return step == self.trunk or (self.every is not None and step % self.every == 0)

    def after_the_end(self, step: int) -> bool:
        """Whether the checkpoint of a step stays when the run has ended."""
        return self.last > 1 or self.every is not None or step == self.trunk


@dataclass(frozen=True)
class WorkerJob:
    """What a worker is given.

    Attributes:
        settings: the run's settings.
        directory: the run directory, absolute, on a file system that all workers share.
        student: checkpoint directory of the network to train.
        teacher: checkpoint directory of a teacher that runs beside the student, or a teacher's
            stored logits; None without distillation.
        sampler: draws the blocks of each step.
        text: for each source its blocks, or what reads them as a stream; on their way to the
            workers they are object references.
        validation: blocks of the validation text, shape [N, T]; on their way an object reference.
        origin: content of the result's `subnet.json`.
        threads: threads of a worker on the CPU.
        execution: how the networks are spread and computed.
        stop_after: step after which to stop, with a checkpoint from which the run goes on; None:
            the run's last, after which the network is written. No setting of the run.
        keep: which checkpoints are kept.
        resume_from: another run's checkpoint, from which this one begins; None: from its model.
    """

    settings: RunSettings
    directory: Path
    student: Path
    teacher: Path | TeacherLogits | None
    sampler: Sampler
    text: tuple[Any, ...]
    validation: Any
    origin: dict[str, Any]
    threads: int
    execution: Execution
    stop_after: int | None = None
    keep: Keep = Keep()
    resume_from: Path | None = None


@dataclass
class TrainState:
    """What a worker holds while it trains.

    Attributes:
        job: what the worker is given.
        process: the worker's place among all workers.
        student: the network that is trained, with its loss.
        network: the student as it is called in training.
        teacher: a running teacher, or its logits on disk; None without distillation.
        optimizer: AdamW.
        step: optimiser steps done, those whose update was left out included.
        seconds: seconds of training up to the last checkpoint, restarts left out.
        skipped: steps whose update was left out.
        skipped_in_a_row: steps whose update was left out since the last one that had an update.
    """

    job: WorkerJob
    process: WorkerProcess
    student: Student
    network: nn.Module
    teacher: TeacherNetwork | TeacherLogits | None
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def settings(self) -> RunSettings:
        """The run's settings."""
        return self.job.settings

    @property
    def model(self) -> GPT:
        """The network that is trained."""
        return self.student.model

    def autocast(self) -> AbstractContextManager[Any]:
        """Matrix products in the run's precision."""
        enabled = self.settings.precision == "bfloat16"
        return torch.autocast(self.process.device.type, torch.bfloat16, enabled=enabled)

    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.seconds + time.perf_counter() - self.started

    def sum_over_workers(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all workers, on the CPU."""
        if self.process.workers > 1:
            values = values.to(self.process.device)
            torch.distributed.all_reduce(values)
        return values.cpu()


def initial_state(job: WorkerJob, process: WorkerProcess) -> TrainState:
    """Load the networks onto the worker's device, for the first step."""
    settings, device = job.settings, process.device
    if device.type == "cpu":
        torch.set_num_threads(job.threads)
    stored = checkpoint.load(job.student)
    is_mapped = job.execution.parallel == "fsdp" and settings.init == "weights"
    model = stored.mapped_model() if is_mapped else stored.model()
    if settings.init == "random":
        initialise(model, torch.Generator().manual_seed(settings.seed))
    model.train()
    if device.type == "cpu" and settings.precision == "bfloat16":
        use_float32_attention(model)
    without_idle_windows(model, settings.sequence_length)
    student = Student(model, settings.loss)
    return TrainState(
        job=job,
        process=process,
        student=student,
        network=spread_student(student, process, job.execution, settings.precision),
        teacher=_teacher(job, process),
        optimizer=_optimizer(model, settings),
    )


def _teacher(job: WorkerJob, process: WorkerProcess) -> TeacherNetwork | TeacherLogits | None:
    if job.teacher is None or isinstance(job.teacher, TeacherLogits):
        return job.teacher
    precision, is_sharded = job.settings.precision, job.execution.shard_teacher
    teacher = load_teacher(job.teacher, precision, job.settings.sequence_length, mapped=is_sharded)
    if job.execution.compile:
        compile_blocks(teacher.model, process.device)
    if not is_sharded:
        return teacher.to(process.device)
    shard(teacher, process, precision, teacher_dtype(precision))
    return teacher


def _optimizer(model: GPT, settings: RunSettings) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=settings.learning_rate, betas=BETAS, fused=settings.device == "cuda"
    )
