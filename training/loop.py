"""The one training loop, run by every Ray Train worker; distillation is only a loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from evo.errors import UserError
from evo.nll import summed_nll
from training import log
from training.accounts import Accounts, open_accounts
from training.feed import Feed, Portion
from training.losses import Teacher
from training.state import commit, resume, save_result
from training.teacher import teacher_states
from training.teacher_logits import TeacherLogits
from training.worker import Job, Place, Worker, start_worker

Blocks = NDArray[np.int32]


def train(job: Job, place: Place) -> None:
    """Train one model; run by every worker.

    Args:
        job: what all workers are given.
        place: where this one stands.

    Raises:
        UserError: the loss is not finite, the memory or the disk is full.
    """
    try:
        worker = start_worker(job, place)
        resume(worker)
        _run(worker)
        save_result(worker)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"micro-batches of {job.plan.micro_batch} sequences do not fit in memory: "
            "give a smaller --micro-batch"
        ) from error


def _run(worker: Worker) -> None:
    """All steps that are left, each with its line in the log."""
    job, plan = worker.job, worker.plan
    validation = np.empty((0, 0), np.int32) if job.validation is None else job.validation
    if worker.rank == 0:
        log.cut_back(job.run, worker.step if worker.step else -1)
    accounts = open_accounts(worker)
    if worker.step == 0:
        row: dict[str, Any] = {"step": 0, "tokens": 0, "flops": 0, "seconds": 0.0}
        row["device_flops_per_second"] = accounts.rate
        if plan.validate_every:
            row["validation_perplexity"] = _validation_perplexity(worker, validation)
        if worker.rank == 0:
            log.append(job.run, row)
    with _feed(worker) as portions:
        _steps(worker, accounts, portions, validation)


def _steps(
    worker: Worker, accounts: Accounts, portions: Iterator[Portion], validation: Blocks
) -> None:
    job, plan = worker.job, worker.plan
    while worker.step < plan.steps:
        began = time.perf_counter()
        portion = next(portions)
        row = _train_step(worker, portion.rows)
        if not math.isfinite(row["loss"]):
            raise UserError(
                f"the loss is {row['loss']} at step {worker.step}: give a lower --learning-rate, "
                "or --precision float32"
            )
        row |= accounts.of_step(time.perf_counter() - began)
        if plan.validates_after(worker.step):
            row["validation_perplexity"] = _validation_perplexity(worker, validation)
        row["seconds"] = round(worker.elapsed(), 3)
        row["data_seconds"] = round(portion.waited, 6)
        row |= _blocks(worker, portion)
        if worker.rank == 0:
            log.append(job.run, row)
        if worker.step % job.checkpoint_every == 0 or worker.step == plan.steps:
            commit(worker)


def _feed(worker: Worker) -> Feed:
    """What reads this worker's part of the text, from its next step on."""
    return Feed(
        worker.job.sampler,
        worker.job.text,
        rank=worker.rank,
        workers=worker.workers,
        steps=range(worker.step, worker.plan.steps),
    )


def _blocks(worker: Worker, portion: Portion) -> dict[str, Any]:
    """For the log: which blocks all workers together had, told from what they read."""
    digests = worker.sum_over_workers(torch.tensor([portion.digest]))
    found: dict[str, Any] = {"blocks": f"{digests.item() % 2**64:016x}"}
    if worker.job.log_blocks:
        batch = portion.batch
        found["block_ids"] = np.stack([batch.sources, batch.blocks], axis=1).tolist()
    return found


def _train_step(worker: Worker, blocks: NDArray[np.int64]) -> dict[str, Any]:
    """Take one optimiser step; the row of the log, whose losses are means per target token."""
    plan = worker.plan
    # DistributedDataParallel takes the mean over workers; what is wanted is the sum.
    targets = plan.batch * (blocks.shape[1] - 1)
    scale = worker.workers / targets
    sums = torch.zeros(3, dtype=torch.float64)
    for rows, is_last in _micro_batches(blocks, plan.micro_batch):
        tokens = torch.from_numpy(rows).to(worker.device)
        with nullcontext() if is_last else _no_sync(worker.student):
            with worker.autocast():
                losses = worker.student(tokens, _teacher_view(worker, rows, tokens))
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
        row |= {"ce": sums[1].item(), "divergence": sums[2].item()}
    row["learning_rate"] = learning_rate
    nn.utils.clip_grad_norm_(worker.model.parameters(), plan.gradient_clip)
    worker.optimizer.step()
    worker.optimizer.zero_grad()
    return row


def _no_sync(student: nn.Module) -> AbstractContextManager[Any]:
    if isinstance(student, DistributedDataParallel):
        return student.no_sync()
    return nullcontext()


def _teacher_view(worker: Worker, rows: NDArray[np.int64], tokens: Tensor) -> Teacher | None:
    if isinstance(worker.teacher, TeacherLogits):
        return worker.teacher.top_k(rows, worker.device)
    return None if worker.teacher is None else teacher_states(worker.teacher, tokens)


def _micro_batches(rows: NDArray[np.int64], size: int) -> Iterator[tuple[NDArray[np.int64], bool]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size], start + size >= len(rows)


def _validation_perplexity(worker: Worker, blocks: Blocks) -> float:
    share = blocks[worker.rank :: worker.workers]
    with worker.autocast():
        nll = summed_nll(worker.model, share, micro_batch=worker.plan.micro_batch).sum()
    total = worker.sum_over_workers(torch.tensor([nll], dtype=torch.float64))
    mean = total.item() / (len(blocks) * (blocks.shape[1] - 1))
    return math.exp(mean) if mean < 700 else math.inf
