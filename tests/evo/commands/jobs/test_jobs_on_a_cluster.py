"""A search submitted, lost, paused, gone on with, extended and stopped, as a user does it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from tests.support.heads import Head, running_head, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as head:
        yield head


def evo(head: Head, *arguments: str) -> subprocess.CompletedProcess[str]:
    name, *rest = arguments
    return subprocess.run(
        [sys.executable, "-m", "evo", name, "--address", head.dashboard, *rest],
        env=head.environment | {"COLUMNS": "400"}, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip


def says(head: Head, *arguments: str) -> str:
    done = evo(head, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def driver(run: Path) -> psutil.Process | None:
    """The process of `evo search` itself."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if str(run) in words and "search" in words and "--" not in words:
            return process
    return None


def histories(run: Path) -> list[pd.DataFrame]:
    paths = sorted(run.glob("searches/*/history.parquet"))
    return [pd.read_parquet(path).drop(columns="seconds") for path in paths]


@pytest.mark.timeout(1800)
def test_a_study_from_its_submission_to_its_end(
    head: Head, teacher: Callable[[str], Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 112, (400, 80)))
    run = tmp_path / "run"
    flags = [
        "--teacher", str(teacher("llama")), "--text", str(tmp_path / "tokens.npy"), "--bins", "40%",
        "60%", "--population", "8", "--order", "index", "--shard-tokens", "8000", "--rungs", "full",
        "--no-score-cache", "--workers", "1",
    ]  # fmt: skip
    search = ["--", "search", *flags, "--out", str(run), "--generations"]
    parts = run / "searches" / "coarse-uniform@60%" / "history.parquet"

    def generations() -> int:
        return len(list(parts.glob("*.parquet")))

    def listed() -> str:
        return says(head, "jobs")

    said = says(head, "submit", "--name", "study", *search, "9")
    assert said.startswith("job study: evo search --teacher ")
    assert f"{head.dashboard}/#/jobs/study\n" in said
    again = evo(head, "submit", "--name", "study", *search, "9")
    assert again.returncode == 2
    assert "`evo pause study` first" in again.stderr

    # Its driver is killed, and it is submitted again by itself.
    wait_until(lambda: generations() >= 2, 200, listed)
    assert "coarse-uniform@60%: " in listed()
    found = driver(run)
    assert found is not None
    found.kill()
    wait_until(lambda: "running (attempt 2)" in listed(), 120, listed)
    before = generations()
    wait_until(lambda: generations() > before, 200, listed)

    # Paused, nothing of it runs; it goes on where it was.
    assert "job study is paused" in says(head, "pause", "study")
    assert driver(run) is None
    assert "paused (attempt 2)" in listed()
    kept = {path: path.stat().st_mtime_ns for path in parts.iterdir()}
    assert "is paused" in evo(head, "pause", "study").stderr
    assert "attempt 3" in says(head, "resume", "study")
    assert "already" in evo(head, "resume", "study").stderr
    followed = says(head, "logs", "study", "--follow")
    assert "ended: budget" in followed
    wait_until(lambda: "finished (attempt 3)" in listed(), 60, listed)
    assert all(path.stat().st_mtime_ns == when for path, when in list(kept.items())[:2])
    assert (run / "summary.json").is_file()
    assert "is finished" in evo(head, "resume", "study").stderr

    # More of it is asked for by the same line.
    assert "evo search" in says(head, "submit", "--name", "study", "--follow", *search, "10")
    assert generations() == 11
    other = evo(head, "submit", "--name", "study", "--", "search", *flags, "--out", "/other")
    assert f"job study writes to {run}, not to /other" in other.stderr

    # All of that has changed nothing of the result.
    alone = [sys.executable, "-m", "evo", "search", *flags, "--generations", "10"]
    outside = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run([*alone, "--out", str(tmp_path / "alone")], env=outside, check=True)
    for one, same in zip(histories(run), histories(tmp_path / "alone"), strict=True):
        pd.testing.assert_frame_equal(one, same, check_exact=True)

    assert f"what it did is in {run}" in says(head, "stop", "study")
    assert "has no jobs" in listed()
    assert "there is no job 'study'" in evo(head, "stop", "study").stderr


def test_bad_input_is_not_tried_again(head: Head, tmp_path: Path) -> None:
    words = ["--teacher", "/nowhere", "--text", "/nowhere", "--bins", "40%"]
    said = says(head, "submit", "--name", "wrong", "--follow", "--", "search", *words,
                "--out", str(tmp_path / "run"))  # fmt: skip
    assert "evo search: " in said
    wait_until(lambda: "failed" in says(head, "jobs"), 60, lambda: says(head, "logs", "wrong"))
    time.sleep(7)  # longer than between two looks of a keeper
    assert "attempt 2" not in says(head, "jobs")
    assert says(head, "stop", "wrong").startswith("job wrong has ended")


def test_nobody_comes_in_without_the_token(head: Head) -> None:
    stranger = {k: v for k, v in head.environment.items() if not k.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-m", "evo", "jobs", "--address", head.dashboard],
        env=stranger | {"HOME": "/nonexistent"}, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("evo ")]
    assert "lets nobody in without its token" in line
