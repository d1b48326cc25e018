"""A SIGTERM ends a command in order: one line, exit code 143, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import ray

from evo.cli import main
from evo.termination import grace, handlers_kept, heed_sigterm, was_terminated
from tests.support import tiny_checkpoints
from training.logs import log

BEGINS = 120.0
"""Seconds in which a command begins to write."""


@pytest.fixture
def sigterm():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_is_an_interruption_and_remembered(sigterm) -> None:
    heed_sigterm()
    assert not was_terminated()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert was_terminated()
    signal.raise_signal(signal.SIGTERM)  # the second one disturbs nothing
    heed_sigterm()
    assert not was_terminated()


def test_work_that_is_given_grace_ends_by_itself(sigterm) -> None:
    heed_sigterm()
    asked = []
    with grace(60.0, lambda: asked.append("end")):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert asked == ["end"]
    assert was_terminated()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def terminated_at_work() -> None:
    with grace(0.2, lambda: None):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(30)


def test_work_that_takes_longer_is_interrupted(sigterm) -> None:
    heed_sigterm()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        terminated_at_work()
    assert time.monotonic() - began < 10
    heed_sigterm()
    with pytest.raises(KeyboardInterrupt), grace(0.0, lambda: None):
        signal.raise_signal(signal.SIGTERM)


def test_a_handler_survives_what_replaces_it(sigterm) -> None:
    heed_sigterm()
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def terminated(command: list[str], begun: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
    """Start a command, and end it by SIGTERM once it has begun."""
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "RAY_AUTH_MODE": "token"}
    process = subprocess.Popen(
        [sys.executable, "-m", "evo", *command],
        env=os.environ | address,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + BEGINS
    while not begun():
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    out, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("kind", ["search", "pretrain"])
def test_a_command_ends_in_order_and_goes_on(kind: str, tmp_path: Path) -> None:
    model = tiny_checkpoints.neox(tmp_path / "model")
    text = tiny_checkpoints.text(tmp_path / "text.npy", blocks=60)
    common = ["--text", text, "--workers", "1", "--out"]
    if kind == "search":
        command = ["search", "--teacher", str(model), "--bins", "40%", "--population", "10",
                   "--generations", "8", "--no-score-cache", *common]  # fmt: skip
        result = "searches/coarse-uniform@40%/history.parquet"
    else:
        command = ["pretrain", "--model", str(model), "--tokens", "13600", "--batch-tokens", "68",
                   "--checkpoint-every", "1000", "--threads", "1", *common]  # fmt: skip
        result = "log.jsonl"
    run = tmp_path / "run"
    ended = terminated([*command, str(run)], lambda: (run / result).exists())
    assert ended.returncode == 143, ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        f"evo {kind}: terminated; the same command goes on from here"
    )
    assert "Traceback" not in ended.stderr
    assert not (run / "summary.json").exists()
    if kind == "search":
        for out in (run, tmp_path / "whole"):
            assert main([*command, str(out)]) == 0
        one, other = (
            pd.read_parquet(out / result).drop(columns="seconds")
            for out in (run, tmp_path / "whole")
        )
        pd.testing.assert_frame_equal(one, other, check_exact=True)
        return
    # It has written a checkpoint first, and the run ends as one that was never disturbed.
    last = log.last_step(run)
    assert last < 200
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == [f"step-{last}"]
    assert last % 1000
    for out in (run, tmp_path / "whole"):
        assert main([*command, str(out)]) == 0
    one, other = (
        [{k: v for k, v in row.items() if k not in log.MEASURED} for row in log.rows(out)]
        for out in (run, tmp_path / "whole")
    )
    assert one == other
