"""The checkpoints from which an interrupted run goes on, and the result that it leaves.

Checkpoints are torch's distributed ones (DCP): every worker writes a part, and any number of
workers can read them. They lie in the run directory itself, and not where Ray Train
would copy them, because a directory that is renamed there is committed at once. Ray Train commits a
checkpoint that it was given only some time later.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from evo.errors import UserError, first_line
from evo.model import checkpoint
from evo.storage.files import output_errors
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.run_directory import read_settings
from training.logs import log
from training.loop.train_state import TrainState
from training.run_directory import RESULT, checkpoint_of, checkpoints_of, step_of

COUNTERS = ("seconds", "skipped", "skipped_in_a_row")


def commit(state: TrainState) -> None:
    """Write a checkpoint, from which the run goes on exactly; every worker calls this.

    The checkpoint appears whole or not at all. Those before it go that are not to be kept.

    Raises:
        UserError: the checkpoint cannot be written.
    """
    directory = checkpoint_of(state.job.directory, state.step)
    checkpoints = directory.parent
    temporary = checkpoints / f".{directory.name}.tmp"
    with output_errors(directory):
        if state.process.rank == 0:
            for left in checkpoints.glob(".*.tmp"):  # by a run that was cut off
                shutil.rmtree(left)
        try:
            with _checkpoint_errors(f"cannot write {directory}"):
                dcp.save(_tensors(state), storage_writer=_Writer(temporary, directory))
        except UserError:
            if state.process.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise
        if state.process.rank == 0:
            _refuse_changed(state)
            log.secure(state.job.directory)  # what led to the checkpoint, before it appears
            if directory.exists():  # it is there already, and as good
                shutil.rmtree(directory)
            temporary.rename(directory)
            keep = state.job.keep
            for step, old in list(checkpoints_of(state.job.directory).items())[: -keep.last]:
                if not keep.for_good(step):
                    shutil.rmtree(old)


def _refuse_changed(state: TrainState) -> None:
    """Refuse a checkpoint in a run that another driver has made a longer one since: workers outlive
    a driver that is killed, and theirs would have a learning rate that has fallen."""
    run, steps = state.job.directory, state.settings.steps
    if (run / SETTINGS).is_file() and read_settings(run).get("steps", steps) != steps:
        raise UserError(f"{run} was made a run of other --tokens meanwhile")


def resume(state: TrainState) -> None:
    """Load the run's last checkpoint, or the one that it is to begin from; all workers call this.

    Raises:
        UserError: the checkpoint cannot be read.
    """
    run = state.job.directory
    # The first worker decides for all, as a shared file system may show each something else.
    last = max(checkpoints_of(run), default=0) if state.process.rank == 0 else 0
    step = int(state.sum_over_workers(torch.tensor([last], dtype=torch.float64)).item())
    directory = checkpoint_of(run, step)
    if step == 0:
        if state.job.resume_from is None:
            return
        directory = state.job.resume_from
        step = step_of(directory) or 0
    weight_decays = [group["weight_decay"] for group in state.optimizer.param_groups]
    saved = _tensors(state)
    with _checkpoint_errors(f"cannot read {directory}"):
        dcp.load(saved, checkpoint_id=directory)
    set_state_dict(
        state.model,
        state.optimizer,
        model_state_dict=saved["model"],
        optim_state_dict=saved["optimizer"],
    )
    for group, weight_decay in zip(state.optimizer.param_groups, weight_decays, strict=True):
        group["weight_decay"] = weight_decay  # of another run's it may be another
    state.step = step
    for name in COUNTERS:
        setattr(state, name, saved[name])


def save_result(state: TrainState) -> None:
    """Write the trained network as a checkpoint directory, `model/` in the run directory.

    Every worker calls this, because each may hold only a part of the weights.

    Raises:
        UserError: the directory cannot be written.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(state.model, options=options)
    if state.process.rank > 0:
        return
    directory = state.job.directory / RESULT
    with output_errors(directory):
        if directory.exists():  # an earlier try was cut off after it had written its result
            shutil.rmtree(directory)
    trained = replace(checkpoint.load(state.job.student), weights=weights).model()
    checkpoint.save(directory, trained, tokenizer_from=state.job.student, origin=state.job.origin)


def _tensors(state: TrainState) -> dict[str, Any]:
    """Everything that changes in training; the tensors are the worker's own, no copies."""
    model, optimizer = get_state_dict(state.model, state.optimizer)
    counters = {name: getattr(state, name) for name in COUNTERS} | {"seconds": state.elapsed()}
    return {"model": model, "optimizer": optimizer, **counters}


@contextmanager
def _checkpoint_errors(what: str) -> Iterator[None]:
    """Turn a worker's error in writing or reading its part into one line, on all workers."""
    try:
        yield
    except CheckpointException as error:
        reasons = [reason for reason, _ in error.failures.values()]
        for reason in reasons:
            if isinstance(reason, UserError):
                raise UserError(str(reason)) from error
        raise UserError(f"{what}: {first_line(reasons[0])}") from error


class _Writer(FileSystemWriter):
    """Writes a checkpoint's parts; an error is told on the worker that meets it.

    On the way to another worker an exception loses what it came of.

    Args:
        temporary: directory to write to.
        directory: name that errors call it.
    """

    def __init__(self, temporary: Path, directory: Path) -> None:
        super().__init__(temporary)
        self._directory = directory

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Make the directory."""
        with output_errors(self._directory):
            return super().prepare_local_plan(plan)

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write a worker's part."""
        with output_errors(self._directory):
            return super().write_data(plan, planner)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write what lists all parts."""
        with output_errors(self._directory):
            super().finish(metadata, results)
