"""Sweeps of short runs on a real Ray: killed and resumed, with early stopping, with a failure."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evo.errors import UserError
from evo.ray_connection import connect
from tests.support import tiny_checkpoints
from tests.training.test_pretrain import assert_same_run
from training.logs import log
from training.pretrain import pretrain
from training.sweep.config import SweepConfig
from training.sweep.sweep import _run_of, sweep
from training.sweep.trials import make_trials

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


ROOT = Path(__file__).parents[3]
STEPS, BATCH, LENGTH = 60, 4, 17
GRID = ["learning_rate=1e-2,1e-3,1e-4"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    root = tmp_path_factory.mktemp("sweep")
    return SweepConfig(
        model=tiny_checkpoints.neox(root / "model"),
        text=tiny_checkpoints.text(root / "text.npy"),
        tokens=STEPS * BATCH * LENGTH,
        out=root / "sweep",
        validation_text=tiny_checkpoints.text(root / "validation.npy", blocks=9, seed=1),
        batch_tokens=BATCH * LENGTH,
        validate_every=5,
        checkpoint_every=5,
        workers=1,
        threads=1,
        gpus_per_worker=0,
        loggers=[],
    )


def command(config: SweepConfig, *more: str) -> list[str]:
    given = {
        name: getattr(config, name)
        for name in ("model", "text", "tokens", "out", "validation_text", "batch_tokens",
                     "validate_every", "checkpoint_every", "workers", "threads", "gpus_per_worker")
    }  # fmt: skip
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    return [sys.executable, "-m", "evo", "sweep", *flags, "--loggers=[]", *more]


def run_names(grid: list[str]) -> list[str]:
    return [trial.name for trial in make_trials(grid, [], 1, np.random.default_rng(0))]


@pytest.mark.timeout(600)
def test_killed_and_run_again_it_repeats_no_finished_run_and_goes_on_in_half_of_one(
    config: SweepConfig, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    trials = config.out / "trials"
    first, second, _ = (trials / name for name in run_names(GRID))
    process = subprocess.Popen(
        command(config, "--concurrent=1", "--grid", *GRID),
        env=environment, stdout=subprocess.DEVNULL, stderr=(tmp_path / "one").open("w"),
    )  # fmt: skip
    while not (rows := log.rows(second)) or rows[-1]["step"] < STEPS // 4:
        assert process.poll() is None, (tmp_path / "one").read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (first / "summary.json").exists()
    assert not (second / "summary.json").exists()
    before = (first / "log.jsonl").stat().st_mtime_ns

    # Two at a time on two CPUs: a run that held one itself would wait for its worker for ever.
    done = subprocess.run(
        command(config, "--concurrent=2", "--grid", *GRID),
        env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 runs, 2 at a time" in done.stderr
    assert first.name not in done.stderr
    assert (first / "log.jsonl").stat().st_mtime_ns == before
    results = pd.read_parquet(config.out / "results.parquet")
    assert list(results["status"]) == ["finished"] * 3
    assert list(results["steps"]) == [STEPS] * 3
    assert results["final_perplexity"].is_monotonic_increasing
    best = results.iloc[0]
    assert (best["learning_rate"], best["curve_tokens"][-1]) == (0.01, config.tokens)
    assert "best: --learning-rate 0.01: " in done.stdout
    assert (config.out / "sweep.png").stat().st_size > 10_000
    assert not (config.out / "tune").exists()

    # The one that was cut off is the run that it would have been.
    connect()
    trial = make_trials(GRID, [], 1, np.random.default_rng(0))[1]
    alone = replace(_run_of(config, trial, config.out), out=tmp_path / "alone")
    pretrain(alone)
    assert_same_run(second, alone.out)


@pytest.mark.timeout(600)
def test_one_is_stopped_early_and_one_fails_and_the_rest_goes_on(
    config: SweepConfig,
) -> None:
    connect()
    grid = ["learning_rate=1e-2,1e-6,1e30"]
    other = replace(config, out=config.out.with_name("asha"), grid=grid, asha=True, concurrent=1)
    good, stopped, failed = run_names(grid)
    message = f"1 of 3 runs failed, {failed} because: the loss is nan"
    outcome = sweep(other)
    with pytest.raises(UserError, match=re.escape(message)):
        outcome.check_failures()
    assert str(outcome.best).startswith("best: --learning-rate 0.01")
    results = pd.read_parquet(other.out / "results.parquet").set_index("trial")
    assert list(results.index) == [good, stopped, failed]
    assert list(results["status"]) == ["finished", "stopped", "failed"]
    assert results.loc[failed, "reason"].startswith("the loss is nan")
    assert STEPS // 9 <= results.loc[stopped, "steps"] < STEPS
    # Run again, only the failed one is tried again.
    before = (other.out / "trials" / stopped / "log.jsonl").stat().st_mtime_ns
    with pytest.raises(UserError, match="1 of 3 runs failed"):
        sweep(other).check_failures()
    assert (other.out / "trials" / stopped / "log.jsonl").stat().st_mtime_ns == before


def test_all_runs_are_validated_on_the_same_text(config: SweepConfig) -> None:
    trials = make_trials(["tokens=4000,400000"], [], 1, np.random.default_rng(0))
    runs = [_run_of(config, trial, config.out) for trial in trials]
    assert [run.tokens for run in runs] == [4000, 400000]
    assert runs[0].validation_tokens == runs[1].validation_tokens == 2**12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_text": None}, "give --validation-text"),
        ({"samples": 0}, "--samples 0"),
        ({"concurrent": 0}, "--concurrent 0"),
        ({"grid": []}, "nothing to try"),
        ({"grid": ["model=a,b"]}, "give --sequence-length"),
        ({"grid": ["alpha=-1"]}, "--alpha -1"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    config: SweepConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sweep(replace(config, **{"grid": GRID, "out": tmp_path / "out"} | changes))
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused(config: SweepConfig, tmp_path: Path) -> None:
    one = replace(config, grid=["model=nowhere"], out=tmp_path / "out", concurrent=1)
    one = replace(one, sequence_length=LENGTH)
    connect()
    with pytest.raises(UserError, match="no directory"):
        sweep(one).check_failures()
    with pytest.raises(UserError, match="tokens was"):
        sweep(replace(one, tokens=config.tokens * 2))
