"""Checkpoints of any number of workers, read by any other; workers are plain processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evo.errors import UserError
from evo.model import checkpoint
from tests.support import tiny_checkpoints
from tests.support.alone import job_of, settings_of, train_alone
from training.logs import log
from training.loop.train_state import WorkerJob


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> WorkerJob:
    """Forty steps with several micro-batches each, by one worker, undisturbed."""
    root = tmp_path_factory.mktemp("state")
    whole = job_of(
        root / "whole",
        tiny_checkpoints.llama(root / "model"),
        np.load(tiny_checkpoints.text(root / "text.npy")),
        settings=settings_of(steps=40, checkpoint_every=4, validate_every=16),
        validation=np.load(tiny_checkpoints.text(root / "validation.npy", blocks=9, seed=1)),
    )
    train_alone(whole, 1)
    return whole


@pytest.fixture
def other(job: WorkerJob, tmp_path: Path) -> WorkerJob:
    """The same, in a directory of its own."""
    return replace(job, directory=tmp_path)


def logged(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in log.MEASURED} for row in log.rows(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(run / "model").weights


def assert_close(one: WorkerJob, other: WorkerJob) -> None:
    for row, same in zip(logged(one.directory), logged(other.directory), strict=True):
        assert same.pop("blocks", None) == row.pop("blocks", None)
        assert same == pytest.approx(row, rel=1e-5)
    theirs = weights(other.directory)
    for name, tensor in weights(one.directory).items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-4, atol=1e-5)


def committed(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_two_workers_train_as_one_does(job: WorkerJob, other: WorkerJob) -> None:
    train_alone(other, 2)
    assert_close(job, other)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_workers_each_time(
    job: WorkerJob, other: WorkerJob
) -> None:
    for workers, step in ((1, 10), (2, 19), (3, 27)):
        train_alone(other, workers, kill_at=step)
        # Two of them, where it was killed between writing one and removing the one before.
        names = [name for name in committed(other.directory) if name.startswith("step-")]
        assert max(int(name.removeprefix("step-")) for name in names) >= step - 4
    train_alone(other, 1)
    assert_close(job, other)


@pytest.mark.slow
def test_two_workers_that_were_cut_off_end_as_if_they_had_not_been(
    job: WorkerJob, other: WorkerJob, tmp_path: Path
) -> None:
    whole = replace(job, directory=tmp_path / "whole")
    whole.directory.mkdir()
    train_alone(whole, 2)
    train_alone(other, 2, kill_at=7)
    train_alone(other, 2, kill_at=22)
    train_alone(other, 2)
    assert logged(other.directory) == logged(whole.directory)
    expected, resumed = weights(whole.directory), weights(other.directory)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.items())
    assert committed(other.directory) == ["step-40"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many bytes."""
    directory = tmp_path / "disk"

    def mount(size: int) -> Path:
        directory.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no right to mount a file system")
        return directory

    yield mount
    if os.path.ismount(directory):
        subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_leaves_the_checkpoint_before(
    job: WorkerJob, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(2**20)
    run = replace(job, settings=settings_of(steps=40), directory=disk / "run")
    run.directory.mkdir()
    train_alone(run, 2, kill_at=12)
    assert committed(run.directory)[-1] == "step-10"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "full").write_bytes(bytes(free - 2**14))
    with pytest.raises(UserError, match=r"cannot write .*step-20: No space left on device$"):
        train_alone(run, 2)
    assert committed(run.directory) == ["step-10"]
    (disk / "full").unlink()
    train_alone(run, 2)
    assert committed(run.directory) == ["step-40"]


def test_a_damaged_checkpoint_is_named(other: WorkerJob) -> None:
    other = replace(other, settings=settings_of(steps=40))
    train_alone(other, 2, kill_at=12)
    (other.directory / "checkpoints" / "step-10" / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read .*step-10"):
        train_alone(other, 1)
