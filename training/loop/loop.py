"""The one training loop, which every worker runs; distillation is only a loss."""

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
from training.data.prefetch import LocalBatch, Prefetch
from training.logs import log
from training.loop.checkpointing import commit, resume, save_result
from training.loop.parallel import WorkerProcess, clip_gradients, synchronised, uncompiled
from training.loop.throughput import Throughput, measure_throughput
from training.loop.train_state import TrainState, WorkerJob, initial_state
from training.losses.chunked_loss import Teacher
from training.run_directory import STOP
from training.teacher.network import TeacherNetwork, teacher_states
from training.teacher.stored_logits import TeacherLogits

Blocks = NDArray[np.int32]

MOST_SKIPPED = 10
"""This number of steps in a row whose update is left out ends a run."""


class Diverged(UserError):
    """The loss or the gradient is not finite."""


class Stopped(UserError):
    """The driver has asked the workers to end; there is a checkpoint to go on from."""


def train(job: WorkerJob, process: WorkerProcess) -> float | None:
    """Train one model; run by every worker.

    Args:
        job: what all workers are given.
        process: the worker's place among all workers.

    Returns:
        The NLL of the validation text, in nats summed over targets, where the run is stopped; None
        at its end.

    Raises:
        Diverged: the loss is not finite.
        Stopped: the driver has asked for an end, and a checkpoint is written.
        UserError: the memory or the disk is full; the run is beyond the step at which to stop.
    """
    last = job.settings.steps if job.stop_after is None else job.stop_after
    what, hint = "the networks do", "give --parallel fsdp, --shard-teacher true or more --workers"
    if job.stop_after is not None:
        hint = "give --activation-checkpointing or more --workers-per-finalist"
    try:
        state = initial_state(job, process)
        resume(state)
        if job.settings.micro_batch > 1:
            what = f"micro-batches of {job.settings.micro_batch} sequences do"
            hint = "start again with a smaller --micro-batch"
        if state.step > last:
            raise UserError(
                f"{job.directory} has {state.step} steps of training, more than the {last} of this "
                "round: remove the directory to train anew"
            )
        _run(state, last)
        if job.stop_after is not None:
            return _validation_nll(state, _validation_blocks(state))
        save_result(state)
        return None
    except torch.OutOfMemoryError as error:
        raise UserError(f"{what} not fit in memory: {hint}") from error


def _run(state: TrainState, last: int) -> None:
    """Take all steps that are left up to the last one, and log a row for each."""
    job, settings = state.job, state.settings
    validation = _validation_blocks(state)
    if state.process.rank == 0:
        log.cut_back(job.directory, state.step if state.step else -1)
    throughput = measure_throughput(state)
    if state.step == 0:
        row: dict[str, Any] = {"step": 0, "tokens": 0, "flops": 0, "seconds": 0.0}
        row["device_flops_per_second"] = throughput.rate
        if settings.validate_every:
            row["validation_perplexity"] = _validation_perplexity(state, validation)
        if state.process.rank == 0:
            log.append(job.directory, row)
    prefetch = Prefetch(
        job.sampler,
        job.text,
        rank=state.process.rank,
        workers=state.process.workers,
        steps=range(state.step, last),
        teacher_logits=state.teacher if isinstance(state.teacher, TeacherLogits) else None,
    )
    with prefetch as local_batches:
        _steps(state, throughput, local_batches, validation, last)


def _steps(
    state: TrainState,
    throughput: Throughput,
    local_batches: Iterator[LocalBatch],
    validation: Blocks,
    last: int,
) -> None:
    job, settings = state.job, state.settings
    while state.step < last:
        began = time.perf_counter()
        local_batch = next(local_batches)
        row = _train_step(state, local_batch)
        row |= throughput.columns(time.perf_counter() - began)
        if settings.validates_after(state.step):
            row["validation_perplexity"] = _validation_perplexity(state, validation)
        row["seconds"] = round(state.elapsed(), 3)
        row["data_seconds"] = round(local_batch.waited, 6)
        digests, is_asked = _sums(state, local_batch)
        row |= _blocks(state, local_batch, digests)
        if state.process.rank == 0:
            log.append(job.directory, row)
        is_due = state.step % settings.checkpoint_every == 0 or job.keep.for_good(state.step)
        if is_due or state.step == last or is_asked:
            commit(state)
        if is_asked and state.step < last:
            raise Stopped(f"{job.directory} was stopped at step {state.step}")


def _sums(state: TrainState, local_batch: LocalBatch) -> tuple[int, bool]:
    """The sum of all workers' digests, and whether the driver has asked for an end.

    The first worker looks for all, as a shared file system may show each something else.
    """
    is_asked = state.process.rank == 0 and (state.job.directory / STOP).exists()
    digests, asked = state.sum_over_workers(torch.tensor([local_batch.digest, is_asked])).tolist()
    return digests, bool(asked)


def _blocks(state: TrainState, local_batch: LocalBatch, digests: int) -> dict[str, Any]:
    """Columns of the log that identify the blocks that all workers together have read."""
    columns: dict[str, Any] = {"blocks": f"{digests % 2**64:016x}"}
    if state.settings.log_blocks:
        batch = local_batch.batch
        columns["block_ids"] = np.stack([batch.sources, batch.blocks], axis=1).tolist()
    return columns


def _train_step(state: TrainState, local_batch: LocalBatch) -> dict[str, Any]:
    """Take an optimiser step; return its row of the log, with losses per target token."""
    settings, blocks = state.settings, local_batch.rows
    # DistributedDataParallel takes the mean over workers, and the sum is needed.
    targets = settings.batch * (blocks.shape[1] - 1)
    scale = state.process.workers / targets
    sums = torch.zeros(3, dtype=torch.float64, device=state.process.device)
    # As many turns for every worker, because each of them may gather weights from all.
    turns = math.ceil(math.ceil(settings.batch / state.process.workers) / settings.micro_batch)
    for part, counts, is_last in _micro_batches(len(blocks), turns):
        tokens = torch.from_numpy(blocks[part]).to(state.process.device)
        with synchronised(state.network, is_last or state.job.execution.reduce_each):
            with state.autocast():
                losses = counts * state.network(
                    tokens, _teacher_view(state, local_batch, part, tokens)
                )
            (losses[0] * scale).backward()
        sums += losses.detach()
    learning_rate = settings.learning_rate_at(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    clipped = clip_gradients(state.model, settings.gradient_clip)
    # Only here is the device waited for: all of the step is in its queue by now.
    loss, cross_entropy, divergence = (state.sum_over_workers(sums) / targets).tolist()
    norm = clipped.item()
    state.step += 1
    tokens_so_far = state.step * settings.tokens_per_step
    row = {
        "step": state.step,
        "tokens": tokens_so_far,
        "flops": tokens_so_far * settings.flops_per_token,
        "loss": loss,
    }
    if state.teacher is not None:
        row |= {"ce": cross_entropy, "divergence": divergence}
    row["learning_rate"] = learning_rate
    if math.isfinite(row["loss"]) and math.isfinite(norm):
        state.optimizer.step()
        state.skipped_in_a_row = 0
    else:
        row = _leave_out(state, row, norm)
    state.optimizer.zero_grad()
    if state.skipped:
        row["skipped"] = state.skipped
    return row


def _leave_out(state: TrainState, row: dict[str, Any], norm: float) -> dict[str, Any]:
    """Count a step without an update; return its row without the numbers that are not finite.

    Loss and norm are those of all workers, so all of them decide alike.

    Raises:
        Diverged: such a step is to end the run, or too many have followed each other.
    """
    state.skipped += 1
    state.skipped_in_a_row += 1
    hint = "give a lower --learning-rate, or --precision float32"
    if state.settings.on_nan == "stop":
        name, value = "loss", row["loss"]
        if math.isfinite(value):
            name, value = "norm of the gradient", norm
        raise Diverged(
            f"the {name} is {value} at step {state.step}: {hint}, or leave such steps out with "
            "--on-nan skip"
        )
    if state.skipped_in_a_row == MOST_SKIPPED:
        raise Diverged(
            f"the loss or the gradient is not finite in {MOST_SKIPPED} steps in a row, up to step "
            f"{state.step}: {hint}"
        )
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _teacher_view(
    state: TrainState, local_batch: LocalBatch, part: slice, tokens: Tensor
) -> Teacher | None:
    """The teacher as the loss sees it at some of a local batch's rows."""
    if local_batch.teacher is not None:
        targets = local_batch.rows.shape[1] - 1
        positions = slice(part.start * targets, part.stop * targets)
        return local_batch.teacher.part(positions).to(state.process.device)
    if isinstance(state.teacher, TeacherNetwork):
        return teacher_states(state.teacher, tokens)
    return None


def _micro_batches(rows: int, turns: int) -> Iterator[tuple[slice, bool, bool]]:
    """Split a worker's rows evenly; a part without any is a row that does not count.

    Yields:
        The rows, whether they count, and whether they are the last.
    """
    for turn in range(turns):
        start, stop = (rows * n // turns for n in (turn, turn + 1))
        counts = stop > start
        yield (slice(start, stop) if counts else slice(0, 1)), counts, turn == turns - 1


def _validation_blocks(state: TrainState) -> Blocks:
    validation = state.job.validation
    return np.empty((0, 0), np.int32) if validation is None else validation


def _validation_perplexity(state: TrainState, blocks: Blocks) -> float:
    mean = _validation_nll(state, blocks) / (len(blocks) * (blocks.shape[1] - 1))
    return math.exp(mean) if mean < 700 else math.inf


def _validation_nll(state: TrainState, blocks: Blocks) -> float:
    """The NLL of blocks in nats, summed over targets and workers."""
    share = np.arange(len(blocks))[state.process.rank :: state.process.workers]
    # As many rows for every worker, as in training; those at the end are not summed.
    rows = blocks[np.resize(share, math.ceil(len(blocks) / state.process.workers))]
    with state.autocast(), uncompiled() if state.job.execution.compile else nullcontext():
        sums = state.student.summed_nll(rows, state.settings.micro_batch)
    nll = sums[: len(share)].sum()
    total = state.sum_over_workers(torch.tensor([nll], dtype=torch.float64))
    return total.item()
