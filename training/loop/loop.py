"""The one training loop, run by every Ray Train worker; distillation is only a loss."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo.errors import UserError
from training.data.prefetch import Feed, LocalBatch
from training.logs import log
from training.loop.checkpointing import commit, resume, save_result
from training.loop.parallel import Place, clip_gradients, synchronised, uncompiled
from training.loop.throughput import Accounts, open_accounts
from training.loop.train_state import Job, Worker, start_worker
from training.losses.chunked_loss import Teacher
from training.teacher.network import TeacherNetwork, teacher_states
from training.teacher.stored_logits import TeacherLogits

Blocks = NDArray[np.int32]

MOST_SKIPPED = 10
"""So many steps in a row whose update is left out end a run."""


def train(job: Job, place: Place) -> None:
    """Train one model; run by every worker.

    Args:
        job: what all workers are given.
        place: where this one stands.

    Raises:
        UserError: the loss is not finite, the memory or the disk is full.
    """
    what, hint = "the networks do", "give --parallel fsdp, --shard-teacher true or more --workers"
    try:
        worker = start_worker(job, place)
        resume(worker)
        if job.plan.micro_batch > 1:
            what = f"micro-batches of {job.plan.micro_batch} sequences do"
            hint = "start again with a smaller --micro-batch"
        _run(worker)
        save_result(worker)
    except torch.OutOfMemoryError as error:
        raise UserError(f"{what} not fit in memory: {hint}") from error


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
    with _feed(worker) as local_batches:
        _steps(worker, accounts, local_batches, validation)


def _steps(
    worker: Worker, accounts: Accounts, local_batches: Iterator[LocalBatch], validation: Blocks
) -> None:
    job, plan = worker.job, worker.plan
    while worker.step < plan.steps:
        began = time.perf_counter()
        local_batch = next(local_batches)
        row = _train_step(worker, local_batch)
        row |= accounts.of_step(time.perf_counter() - began)
        if plan.validates_after(worker.step):
            row["validation_perplexity"] = _validation_perplexity(worker, validation)
        row["seconds"] = round(worker.elapsed(), 3)
        row["data_seconds"] = round(local_batch.waited, 6)
        row |= _blocks(worker, local_batch)
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
        teacher_logits=worker.teacher if isinstance(worker.teacher, TeacherLogits) else None,
    )


def _blocks(worker: Worker, local_batch: LocalBatch) -> dict[str, Any]:
    """For the log: which blocks all workers together had, told from what they read."""
    digests = worker.sum_over_workers(torch.tensor([local_batch.digest]))
    found: dict[str, Any] = {"blocks": f"{digests.item() % 2**64:016x}"}
    if worker.job.log_blocks:
        batch = local_batch.batch
        found["block_ids"] = np.stack([batch.sources, batch.blocks], axis=1).tolist()
    return found


def _train_step(worker: Worker, local_batch: LocalBatch) -> dict[str, Any]:
    """Take one optimiser step; the row of the log, whose losses are means per target token."""
    plan, blocks = worker.plan, local_batch.rows
    # DistributedDataParallel takes the mean over workers; what is wanted is the sum.
    targets = plan.batch * (blocks.shape[1] - 1)
    scale = worker.workers / targets
    sums = torch.zeros(3, dtype=torch.float64, device=worker.device)
    # As many turns for every worker, because each of them may gather weights from all.
    turns = math.ceil(math.ceil(plan.batch / worker.workers) / plan.micro_batch)
    for part, counts, is_last in _micro_batches(len(blocks), turns):
        tokens = torch.from_numpy(blocks[part]).to(worker.device)
        with synchronised(worker.network, is_last or worker.job.execution.reduce_each):
            with worker.autocast():
                losses = counts * worker.network(
                    tokens, _teacher_view(worker, local_batch, part, tokens)
                )
            (losses[0] * scale).backward()
        sums += losses.detach()
    learning_rate = plan.learning_rate_at(worker.step)
    for group in worker.optimizer.param_groups:
        group["lr"] = learning_rate
    clipped = clip_gradients(worker.model, plan.gradient_clip)
    # Only here is the device waited for: all of the step is in its queue by now.
    loss, cross_entropy, divergence = (worker.sum_over_workers(sums) / targets).tolist()
    norm = clipped.item()
    worker.step += 1
    tokens_so_far = worker.step * plan.tokens_per_step
    row = {
        "step": worker.step,
        "tokens": tokens_so_far,
        "flops": tokens_so_far * plan.flops_per_token,
        "loss": loss,
    }
    if worker.teacher is not None:
        row |= {"ce": cross_entropy, "divergence": divergence}
    row["learning_rate"] = learning_rate
    if math.isfinite(row["loss"]) and math.isfinite(norm):
        worker.optimizer.step()
        worker.skipped_in_a_row = 0
    else:
        row = _leave_out(worker, row, norm)
    worker.optimizer.zero_grad()
    if worker.skipped:
        row["skipped"] = worker.skipped
    return row


def _leave_out(worker: Worker, row: dict[str, Any], norm: float) -> dict[str, Any]:
    """Count a step without an update; its row without what is not finite.

    Loss and norm are those of all workers, so all of them come to the same.

    Raises:
        UserError: such a step is to end the run, or is one too many.
    """
    worker.skipped += 1
    worker.skipped_in_a_row += 1
    hint = "give a lower --learning-rate, or --precision float32"
    if worker.job.on_nan == "stop":
        name, value = "loss", row["loss"]
        if math.isfinite(value):
            name, value = "norm of the gradient", norm
        raise UserError(
            f"the {name} is {value} at step {worker.step}: {hint}, or leave such steps out with "
            "--on-nan skip"
        )
    if worker.skipped_in_a_row == MOST_SKIPPED:
        raise UserError(
            f"the loss or the gradient is not finite in {MOST_SKIPPED} steps in a row, up to step "
            f"{worker.step}: {hint}"
        )
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _teacher_view(
    worker: Worker, local_batch: LocalBatch, part: slice, tokens: Tensor
) -> Teacher | None:
    """What the loss of some of a local batch's rows sees of the teacher."""
    if local_batch.teacher is not None:
        targets = local_batch.rows.shape[1] - 1
        positions = slice(part.start * targets, part.stop * targets)
        return local_batch.teacher.part(positions).to(worker.device)
    if isinstance(worker.teacher, TeacherNetwork):
        return teacher_states(worker.teacher, tokens)
    return None


def _micro_batches(rows: int, turns: int) -> Iterator[tuple[slice, bool, bool]]:
    """Even parts of a worker's rows; a part without any is a row that does not count.

    Yields:
        Which rows, whether they count, and whether they are the last ones.
    """
    for turn in range(turns):
        start, stop = (rows * n // turns for n in (turn, turn + 1))
        counts = stop > start
        yield (slice(start, stop) if counts else slice(0, 1)), counts, turn == turns - 1


def _validation_perplexity(worker: Worker, blocks: Blocks) -> float:
    share = np.arange(len(blocks))[worker.rank :: worker.workers]
    # As many rows for every worker, as in training; those at the end are not summed.
    rows = blocks[np.resize(share, math.ceil(len(blocks) / worker.workers))]
    with worker.autocast(), uncompiled() if worker.job.execution.compile else nullcontext():
        sums = worker.student.summed_nll(rows, worker.plan.micro_batch)
    nll = sums[: len(share)].sum()
    total = worker.sum_over_workers(torch.tensor([nll], dtype=torch.float64))
    mean = total.item() / (len(blocks) * (blocks.shape[1] - 1))
    return math.exp(mean) if mean < 700 else math.inf
