"""What a run goes on from after an interruption, and what it leaves at its end."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import ray.train
import torch

from evo import checkpoint
from evo.files import output_errors
from training.run_directory import RESULT
from training.worker import Worker

STATE = "state.pt"


def commit(worker: Worker) -> None:
    """Hand Ray Train a checkpoint, from which a run goes on exactly; called by every worker.

    Raises:
        UserError: it cannot be written.
    """
    with output_errors(worker.job.run), tempfile.TemporaryDirectory() as directory:
        handed = None
        if worker.rank == 0:
            state = {
                "step": worker.step,
                "seconds": worker.elapsed(),
                "model": worker.model.state_dict(),
                "optimizer": worker.optimizer.state_dict(),
            }
            try:
                torch.save(state, Path(directory) / STATE)
            except RuntimeError as error:  # how torch's zip writer says that a disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            handed = ray.train.Checkpoint.from_directory(directory)
        ray.train.report({"step": worker.step}, checkpoint=handed)


def resume(worker: Worker) -> None:
    """Put a worker where the last committed checkpoint was taken, if there is one."""
    committed = ray.train.get_checkpoint()
    if committed is None:
        return
    with committed.as_directory() as directory:
        state = torch.load(Path(directory) / STATE, map_location=worker.device, weights_only=True)
    worker.model.load_state_dict(state["model"])
    worker.optimizer.load_state_dict(state["optimizer"])
    worker.step, worker.seconds = state["step"], state["seconds"]


def save_result(worker: Worker) -> None:
    """Write what was trained as a checkpoint directory, `model/` in the run directory.

    Raises:
        UserError: it cannot be written.
    """
    directory = worker.job.run / RESULT
    with output_errors(directory):
        if directory.exists():  # an earlier try was cut off after it had written its result
            shutil.rmtree(directory)
    checkpoint.save(
        directory, worker.model, tokenizer_from=worker.job.model, origin=worker.job.origin
    )
