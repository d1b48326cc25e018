"""A unit of work without Ray: what it gives, and how often its worker may die."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evo.errors import UserError
from tests.support import tiny_checkpoints
from tests.support.alone import job_of, settings_of
from training.logs import log
from training.loop.loop import Diverged, train
from training.loop.parallel import WorkerProcess, process_group
from training.loop.train_state import WorkerJob
from training.setup.launch import MOST_FAILURES
from training.setup.units import Unit


@pytest.fixture
def job(tmp_path: Path) -> WorkerJob:
    model = tiny_checkpoints.neox(tmp_path / "model")
    text = np.load(tiny_checkpoints.text(tmp_path / "text.npy"))
    settings = settings_of(steps=20, validate_every=5, schedule="wsd", decay_steps=4)
    return job_of(tmp_path / "run", model, text, settings=settings, validation=text[:8])


def trained(job: WorkerJob, tmp_path: Path, step: int) -> float | None:
    (tmp_path / "store").unlink(missing_ok=True)
    with process_group(0, 1, str(tmp_path / "store")):
        return train(replace(job, stop_after=step), WorkerProcess(0, 1, torch.device("cpu")))


def test_the_nll_is_that_of_the_step_at_which_the_run_stops(job: WorkerJob, tmp_path: Path) -> None:
    nll = trained(job, tmp_path, 10)
    assert nll is not None
    row = log.rows(job.directory)[-1]
    assert row["step"] == 10
    targets = 8 * (job.validation.shape[1] - 1)
    assert math.exp(nll / targets) == row["validation_perplexity"]
    assert [path.name for path in (job.directory / "checkpoints").iterdir()] == ["step-10"]
    assert not (job.directory / "model").exists()
    assert trained(job, tmp_path, 10) == nll  # its worker died before the driver had the score


def test_a_run_that_went_further_is_not_scored(job: WorkerJob, tmp_path: Path) -> None:
    trained(job, tmp_path, 6)
    with pytest.raises(UserError, match="has 6 steps of training, more than the 4 of this round"):
        trained(job, tmp_path, 4)


def test_a_loss_that_is_not_finite_is_told_from_other_errors(
    job: WorkerJob, tmp_path: Path
) -> None:
    wild = replace(job, settings=replace(job.settings, learning_rate=1e30, gradient_clip=1e30))
    with pytest.raises(Diverged, match="the loss is nan at step"):
        trained(wild, tmp_path, 10)


def test_workers_that_die_again_and_again_end_it(job: WorkerJob) -> None:
    unit = Unit("abc", job)
    died = RuntimeError("it was killed\nand more")
    for step in range(3):
        log.append(job.directory, {"step": step})
        for _ in range(MOST_FAILURES - 1):
            unit.failed(died)
    message = f"abc: its worker died {MOST_FAILURES} times without a further step, at last of: it "
    with pytest.raises(UserError, match=message):
        unit.failed(died)
