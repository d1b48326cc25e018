"""The one training loop, run by every Ray Train worker; distillation is only a loss."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from litgpt.model import GPT
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from evo import checkpoint
from evo.checkpoint import Checkpoint
from evo.model import hidden_states
from evo.nll import summed_nll
from training import log
from training.attention import use_float32_attention
from training.data import batch_of_step, share_of_rank
from training.initialise import initialise
from training.losses import Head, head_of
from training.plan import Plan
from training.student import Student

BETAS = (0.9, 0.95)
STATE = "state.pt"
Blocks = NDArray[np.int32]


@dataclass(frozen=True)
class Job:
    """What a worker is given.

    Attributes:
        plan: the settings.
        run: the run directory, absolute, on a file system that all workers share.
        model: the checkpoint directory of what is trained.
        teacher: the one of what it is distilled from.
        text: an object reference to token blocks, shape [N, T].
        validation: one to those of the validation text.
        origin: for `subnet.json` of the result.
        checkpoint_every: steps from one checkpoint to the next.
        threads: of a worker on the CPU.
    """

    plan: Plan
    run: Path
    model: Path
    teacher: Path | None
    text: Any
    validation: Any
    origin: dict[str, Any]
    checkpoint_every: int
    threads: int


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
        teacher: None without distillation.
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
    teacher: GPT | None
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
        """The sum of a float64 tensor over all workers."""
        if self.workers > 1:
            values = values.to(self.device)
            torch.distributed.all_reduce(values)
        return values.cpu()


def train(job: Job) -> str | None:
    """Train one model; run by every worker.

    Returns:
        Why training was given up, where the loss is not finite.
    """
    worker = _start(job)
    _resume(worker)
    plan = job.plan
    text = ray.get(job.text)
    validation = np.empty((0, 0), np.int32) if job.validation is None else ray.get(job.validation)
    if worker.rank == 0:
        log.cut_back(job.run, worker.step if worker.step else -1)
    if worker.step == 0:
        row = {"step": 0, "tokens": 0, "flops": 0, "seconds": 0.0}
        if plan.validate_every:
            row["validation_perplexity"] = _validation_perplexity(worker, validation)
        if worker.rank == 0:
            log.append(job.run, row)
    while worker.step < plan.steps:
        began = time.perf_counter()
        row = _train_step(worker, text)
        if not math.isfinite(row["loss"]):
            return (
                f"the loss is {row['loss']} at step {worker.step}: give a lower --learning-rate, "
                "or --precision float32"
            )
        row["tokens_per_second"] = round(plan.tokens_per_step / (time.perf_counter() - began), 1)
        if plan.validates_after(worker.step):
            row["validation_perplexity"] = _validation_perplexity(worker, validation)
        row["seconds"] = round(worker.elapsed(), 3)
        if worker.rank == 0:
            log.append(job.run, row)
        if worker.step % job.checkpoint_every == 0 or worker.step == plan.steps:
            _report(worker)
    if worker.rank == 0:
        _save_model(worker)
    return None


def _start(job: Job) -> Worker:
    context, device = ray.train.get_context(), ray.train.torch.get_device()
    plan = job.plan
    if device.type == "cpu":
        torch.set_num_threads(job.threads)
    stored = checkpoint.load(job.model)
    model = stored.model()
    if plan.init == "random":
        initialise(model, torch.Generator().manual_seed(plan.seed))
    model.train()
    if job.teacher is None:
        teacher = None
    else:
        teacher = _teacher(checkpoint.load(job.teacher), plan).to(device)
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


def _teacher(stored: Checkpoint, plan: Plan) -> GPT:
    dtype = torch.bfloat16 if plan.precision == "bfloat16" else torch.float32
    return stored.model(dtype).requires_grad_(False)


def _optimizer(model: GPT, plan: Plan) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.learning_rate, betas=BETAS)


def _train_step(worker: Worker, text: Blocks) -> dict[str, Any]:
    """Take one optimiser step; the row of the log, whose losses are means per target token."""
    plan = worker.plan
    batch = batch_of_step(worker.step, batch=plan.batch, blocks=len(text), seed=plan.seed)
    share = share_of_rank(batch, worker.rank, worker.workers)
    # DistributedDataParallel takes the mean over workers; what is wanted is the sum.
    targets = plan.batch * (text.shape[1] - 1)
    scale = worker.workers / targets
    sums = torch.zeros(3, dtype=torch.float64)
    for rows, is_last in _micro_batches(text[share], plan.micro_batch):
        tokens = torch.from_numpy(rows.astype(np.int64)).to(worker.device)
        with nullcontext() if is_last else _no_sync(worker.student):
            with worker.autocast():
                losses = worker.student(tokens, *_teacher_view(worker, tokens))
            (losses[0] * scale).backward()
        sums += losses.detach().double().cpu()
    learning_rate = plan.learning_rate_at(worker.step)
    for group in worker.optimizer.param_groups:
        group["lr"] = learning_rate
    sums = worker.sum_over_workers(sums) / targets
    worker.step += 1
    tokens_so_far = worker.step * plan.tokens_per_step
    row = {
        "step": worker.step,
        "tokens": tokens_so_far,
        "flops": tokens_so_far * plan.flops_per_token,
        "loss": sums[0].item(),
    }
    if worker.teacher is not None:
        row |= {"ce": sums[1].item(), "kl": sums[2].item()}
    row["learning_rate"] = learning_rate
    nn.utils.clip_grad_norm_(worker.model.parameters(), plan.gradient_clip)
    worker.optimizer.step()
    worker.optimizer.zero_grad()
    return row


def _no_sync(student: nn.Module) -> AbstractContextManager[Any]:
    if isinstance(student, DistributedDataParallel):
        return student.no_sync()
    return nullcontext()


def _teacher_view(worker: Worker, tokens: Tensor) -> tuple[Tensor | None, Head | None]:
    if worker.teacher is None:
        return None, None
    with torch.no_grad():
        return hidden_states(worker.teacher, tokens[:, :-1]), head_of(worker.teacher)


def _micro_batches(rows: Blocks, size: int) -> Iterator[tuple[Blocks, bool]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size], start + size >= len(rows)


def _validation_perplexity(worker: Worker, blocks: Blocks) -> float:
    indices = np.arange(len(blocks))
    share = blocks[share_of_rank(indices, worker.rank, worker.workers)]
    with worker.autocast():
        nll = summed_nll(worker.model, share, micro_batch=worker.plan.micro_batch).sum()
    total = worker.sum_over_workers(torch.tensor([nll], dtype=torch.float64))
    mean = total.item() / (len(blocks) * (blocks.shape[1] - 1))
    return math.exp(mean) if mean < 700 else math.inf


def _report(worker: Worker) -> None:
    """Hand Ray Train a checkpoint, from which a run goes on exactly."""
    with tempfile.TemporaryDirectory() as directory:
        handed = None
        if worker.rank == 0:
            state = {
                "step": worker.step,
                "seconds": worker.elapsed(),
                "model": worker.model.state_dict(),
                "optimizer": worker.optimizer.state_dict(),
            }
            torch.save(state, Path(directory) / STATE)
            handed = ray.train.Checkpoint.from_directory(directory)
        ray.train.report({"step": worker.step}, checkpoint=handed)


def _resume(worker: Worker) -> None:
    committed = ray.train.get_checkpoint()
    if committed is None:
        return
    with committed.as_directory() as directory:
        state = torch.load(Path(directory) / STATE, map_location=worker.device, weights_only=True)
    worker.model.load_state_dict(state["model"])
    worker.optimizer.load_state_dict(state["optimizer"])
    worker.step, worker.seconds = state["step"], state["seconds"]


def _save_model(worker: Worker) -> None:
    directory = worker.job.run / "model"
    if directory.exists():  # an earlier try was cut off after it had written its result
        shutil.rmtree(directory)
    checkpoint.save(
        directory, worker.model, tokenizer_from=worker.job.model, origin=worker.job.origin
    )
