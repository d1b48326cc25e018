"""Checkpoints of any number of workers, read by any other; workers are plain processes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
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
from tests.support.disks import SmallDisk, mounted
from training.logs import log
from training.loop.loop import train
from training.loop.parallel import WorkerProcess, process_group
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
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", 2**20) as small:
        yield small


def test_a_full_disk_leaves_the_checkpoint_before(job: WorkerJob, disk: SmallDisk) -> None:
    run = replace(job, settings=settings_of(steps=40), directory=disk.path / "run")
    run.directory.mkdir()
    train_alone(run, 2, kill_at=12)
    assert committed(run.directory)[-1] == "step-10"
    disk.fill(but=2**14)
    full = r"cannot write .*step-20: No space left on device \(on the file system at .*disk\)$"
    with pytest.raises(UserError, match=full):
        train_alone(run, 2)
    assert committed(run.directory) == ["step-10"]
    disk.empty()
    train_alone(run, 2)
    assert committed(run.directory) == ["step-40"]


def refused(run: WorkerJob, store: str) -> str | None:
    """Train here; what it is refused with."""
    try:
        with process_group(0, 1, store):
            train(run, WorkerProcess(0, 1, torch.device("cpu")))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_byte_is_named_and_the_run_goes_on(
    job: WorkerJob, disk: SmallDisk
) -> None:
    """The checkpoints, the log and the result are written in turn, by several libraries."""
    steps = 12
    run = replace(
        job,
        settings=settings_of(steps=steps, checkpoint_every=4),
        directory=disk.path / "run",
    )
    store = disk.path.with_name("store")
    met = set()
    for free in range(0, 400_000, 25_000):
        shutil.rmtree(run.directory, ignore_errors=True)
        run.directory.mkdir()
        disk.fill(but=free)
        if error := refused(run, f"{store}-{free}"):
            told = re.fullmatch(
                r"cannot write .*/run/([a-z./]+)[-0-9]*: No space left on device \(on the file "
                r"system at .*disk\)",
                error,
            )
            assert told, error
            met.add(told[1])
            disk.empty()
            assert refused(run, f"{store}-{free}-again") is None
        disk.empty()
        assert committed(run.directory) == [f"step-{steps}"]
        assert [row["step"] for row in log.rows(run.directory)] == list(range(steps + 1))
    assert met == {"checkpoints/step", "log.jsonl"}


def test_a_damaged_checkpoint_is_named(other: WorkerJob) -> None:
    other = replace(other, settings=settings_of(steps=40))
    train_alone(other, 2, kill_at=12)
    (other.directory / "checkpoints" / "step-10" / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot read .*step-10"):
        train_alone(other, 1)
