"""Training without Ray Train, for tests that start many runs: here, or in plain processes."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from evo.errors import UserError
from training.data.sampler import Extent, Sampler
from training.logs import log
from training.loop.loop import train
from training.loop.parallel import Execution, WorkerProcess, process_group
from training.loop.run_settings import RunSettings
from training.loop.train_state import WorkerJob
from training.losses.settings import LossSettings
from training.setup.launch import open_streams
from training.setup.training_run import TrainingRun


def launch_here(run: TrainingRun) -> None:
    """The loop of a run: one worker in this process, several in plain ones.

    Streams of text are read by an actor of Ray, which must be running.
    """
    validation = run.inputs.validation
    job = run.job(
        text=tuple(source.blocks for source in run.inputs.text.sources),
        validation=None if validation is None else validation.blocks,
        threads=run.config.threads or 1,
    )
    if run.workers > 1:
        train_alone(job, run.workers)
        return
    with tempfile.TemporaryDirectory() as directory:
        _train_in_group(replace(job, text=open_streams(job)), 0, 1, f"{directory}/store")


def settings_of(
    *, steps: int = 100, batch: int = 6, length: int = 17, **changes: object
) -> RunSettings:
    """Settings of a run of tiny networks on the CPU."""
    settings = {
        "init": "weights", "steps": steps, "batch": batch, "sequence_length": length,
        "micro_batch": 2, "learning_rate": 3e-3, "warmup_steps": 5,
        "schedule": "cosine", "weight_decay": 0.1,
        "gradient_clip": 1.0, "validate_every": 40, "seed": 0, "precision": "float32",
        "device": "cpu", "loss": LossSettings(), "flops_per_token": 1, "checkpoint_every": 10,
        "log_blocks": False, "on_nan": "stop",
    }  # fmt: skip
    settings |= changes
    settings.setdefault("decay_steps", settings["steps"] - settings["warmup_steps"])
    return RunSettings(**settings)


def job_of(directory: Path, student: Path, text: np.ndarray, **changes: object) -> WorkerJob:
    """A run that is not validated and not distilled."""
    settings = changes.get("settings") or settings_of(validate_every=0)
    assert isinstance(settings, RunSettings)
    given = {
        "settings": settings, "directory": directory, "student": student, "teacher": None,
        "sampler": Sampler(settings.batch, (Extent(len(text)),), (1.0,), settings.seed),
        "text": (text,), "validation": None, "origin": {}, "threads": 1, "execution": Execution(),
    }  # fmt: skip
    directory.mkdir(parents=True, exist_ok=True)
    return WorkerJob(**given | changes)


def train_alone(job: WorkerJob, workers: int, *, kill_at: int | None = None) -> None:
    """Run a job's workers to the end, or until one of them is killed.

    Args:
        job: what they are given; its text is in memory.
        workers: how many.
        kill_at: once this step is in the log, the last worker is killed, and then the others.

    Raises:
        UserError: one of them did.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.alone"])
    errors = context.SimpleQueue()
    with tempfile.TemporaryDirectory() as directory:
        processes = [
            context.Process(
                target=_train_in_process,
                args=(job, rank, workers, f"{directory}/store", errors),
            )
            for rank in range(workers)
        ]
        for process in processes:
            process.start()
        if kill_at is not None:
            while not _logged(job.directory, kill_at):
                assert any(process.is_alive() for process in processes), "all ended before"
                time.sleep(0.002)
            for process in reversed(processes):
                process.kill()
        for process in processes:
            process.join()
    if not errors.empty():
        raise UserError(errors.get())
    if kill_at is None:
        assert [process.exitcode for process in processes] == [0] * workers


def _logged(directory: Path, step: int) -> bool:
    rows = log.rows(directory)
    return bool(rows) and rows[-1]["step"] >= step


def _train_in_process(job: WorkerJob, rank: int, workers: int, store: str, errors: object) -> None:
    try:
        _train_in_group(job, rank, workers, store)
    except UserError as error:
        errors.put(str(error))


def _train_in_group(job: WorkerJob, rank: int, workers: int, store: str) -> None:
    with process_group(rank, workers, store):
        train(job, WorkerProcess(rank, workers, torch.device("cpu")))
