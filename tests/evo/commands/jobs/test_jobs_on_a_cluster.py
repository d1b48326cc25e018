"""Jobs that cannot run, and strangers; tests/test_walk_through.py has what is meant to work."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.heads import Head, running_head, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.own_cluster, pytest.mark.slow]


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
