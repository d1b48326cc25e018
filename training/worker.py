"""One worker's part of a run: what it is given, and what it holds while it trains."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed
from litgpt.model import GPT
from torch import Tensor, nn

from evo import checkpoint
from training.attention import use_float32_attention
from training.data import Sampler
from training.initialise import initialise
from training.plan import Plan
from training.student import Student
from training.teacher import load_teacher
from training.teacher_logits import TeacherLogits, open_teacher_logits

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
        text: of each source, an object reference to its blocks, or what reads them as a stream.
        validation: one to those of the validation text.
        origin: for `subnet.json` of the result.
        checkpoint_every: steps from one checkpoint to the next.
        threads: of a worker on the CPU.
        log_blocks: whether each row of the log lists the step's blocks.
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


@dataclass
class Worker:
    """One worker's part of a run.

    Attributes:
        job: what it was given.
        rank: its number, from 0; the first one writes.
        workers: how many there are.
        device: where it computes.
        model: what is trained.
        student: the same, wrapped for data parallelism.
        teacher: running, or its logits on disk; None without distillation.
        optimizer: AdamW.
        step: optimiser steps done.
        seconds: spent up to the last checkpoint, restarts left out.
    """

    job: Job
    rank: int
    workers: int
    device: torch.device
    model: GPT
    student: nn.Module
    teacher: GPT | TeacherLogits | None
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def plan(self) -> Plan:
        """The settings."""
        return self.job.plan

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


def start_worker(job: Job) -> Worker:
    """Load the networks where they train, at the first step.

    Args:
        job: what this worker is given.
    """
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    plan = job.plan
    if device.type == "cpu":
        torch.set_num_threads(job.threads)
    stored = checkpoint.load(job.model)
    model = stored.model()
    if plan.init == "random":
        initialise(model, torch.Generator().manual_seed(plan.seed))
    model.train()
    teacher: GPT | TeacherLogits | None = None
    if job.teacher_logits is not None:
        teacher = open_teacher_logits(job.teacher_logits)
    elif job.teacher is not None:
        teacher = load_teacher(job.teacher, plan.precision, device)
    if device.type == "cpu" and plan.precision == "bfloat16":
        use_float32_attention(model)
    student = ray.train.torch.prepare_model(Student(model, plan.loss))
    return Worker(
        job=job,
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        device=device,
        model=model,
        student=student,
        teacher=teacher,
        optimizer=_optimizer(model, plan),
    )


def _optimizer(model: GPT, plan: Plan) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=BETAS)
