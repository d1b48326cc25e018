"""One worker's part of a run: what it is given, and what it holds while it trains."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn

from evo.model import checkpoint
from evo.model.litgpt import GPT
from training.data.sampler import Sampler
from training.loop.attention import use_float32_attention
from training.loop.init_weights import initialise
from training.loop.parallel import Execution, Place, compile_blocks, shard, spread_student
from training.loop.plan import Plan
from training.loop.student import Student
from training.teacher.network import TeacherNetwork, load_teacher, teacher_dtype
from training.teacher.stored_logits import TeacherLogits, open_teacher_logits

BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Job:
    """What a worker is given.

    Attributes:
        plan: the settings.
        run: the run directory, absolute, on a file system that all workers share.
        model: the checkpoint directory of what is trained.
        teacher: the one of what it is distilled from.
        teacher_logits: of `evo cache-logits`, instead of the teacher.
        sampler: says which blocks each step has.
        text: of each source, its blocks, or what reads them as a stream; on its way to the workers
            an object reference.
        validation: blocks of the validation text, shape [N, T]; on its way a reference, too.
        origin: for `subnet.json` of the result.
        checkpoint_every: steps from one checkpoint to the next.
        threads: of a worker on the CPU.
        log_blocks: whether each row of the log lists the step's blocks.
        execution: how the networks are spread and computed.
        on_nan: of a step whose loss or gradient is not finite: end the run, or leave its update
            out.
    """

    plan: Plan
    run: Path
    model: Path
    teacher: Path | None
    teacher_logits: Path | None
    sampler: Sampler
    text: tuple[Any, ...]
    validation: Any
    origin: dict[str, Any]
    checkpoint_every: int
    threads: int
    log_blocks: bool
    execution: Execution
    on_nan: Literal["stop", "skip"]


@dataclass
class Worker:
    """One worker's part of a run.

    Attributes:
        job: what it was given.
        place: where it stands among the others.
        student: what is trained, with its loss.
        network: the same, as it is called in training.
        teacher: running, or its logits on disk; None without distillation.
        optimizer: AdamW.
        step: optimiser steps done, those whose update was left out included.
        seconds: spent up to the last checkpoint, restarts left out.
        skipped: steps whose update was left out.
        skipped_in_a_row: those of them since the last one that had an update.
    """

    job: Job
    place: Place
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
    def plan(self) -> Plan:
        """The settings."""
        return self.job.plan

    @property
    def model(self) -> GPT:
        """What is trained."""
        return self.student.model

    @property
    def rank(self) -> int:
        """Its number, from 0."""
        return self.place.rank

    @property
    def workers(self) -> int:
        """How many there are."""
        return self.place.workers

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.place.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The plan's precision."""
        enabled = self.plan.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def elapsed(self) -> float:
        """Seconds of training so far."""
        return self.seconds + time.perf_counter() - self.started

    def sum_over_workers(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all workers."""
        if self.workers > 1:
            values = values.to(self.device)
            torch.distributed.all_reduce(values)
        return values.cpu()


def start_worker(job: Job, place: Place) -> Worker:
    """Load the networks where they train, at the first step.

    Args:
        job: what this worker is given.
        place: where it stands.
    """
    plan, device = job.plan, place.device
    if device.type == "cpu":
        torch.set_num_threads(job.threads)
    stored = checkpoint.load(job.model)
    in_parts = job.execution.parallel == "fsdp" and plan.init == "weights"
    model = stored.mapped_model() if in_parts else stored.model()
    if plan.init == "random":
        initialise(model, torch.Generator().manual_seed(plan.seed))
    model.train()
    if device.type == "cpu" and plan.precision == "bfloat16":
        use_float32_attention(model)
    student = Student(model, plan.loss)
    return Worker(
        job=job,
        place=place,
        student=student,
        network=spread_student(student, place, job.execution, plan.precision),
        teacher=_teacher(job, place),
        optimizer=_optimizer(model, plan),
    )


def _teacher(job: Job, place: Place) -> TeacherNetwork | TeacherLogits | None:
    if job.teacher_logits is not None:
        return open_teacher_logits(job.teacher_logits)
    if job.teacher is None:
        return None
    precision, in_parts = job.plan.precision, job.execution.shard_teacher
    teacher = load_teacher(job.teacher, precision, mapped=in_parts)
    if job.execution.compile:
        compile_blocks(teacher.model, place.device)
    if not in_parts:
        return teacher.to(place.device)
    shard(teacher, place, precision, teacher_dtype(precision))
    return teacher


def _optimizer(model: GPT, plan: Plan) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=plan.learning_rate, betas=BETAS, fused=plan.device == "cuda"
    )
