"""Sweeps of short runs on a real Ray: killed and resumed, with early stopping, with a failure."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import yaml
from ray.exceptions import RayTaskError
from ray.train.v2.api.exceptions import WorkerGroupError
from rich.console import Console

from dashboards.training_curves import COLOURS
from evo.commands.sweep import run as run_command
from evo.errors import UserError
from evo.ray_connection import connect
from evo.storage.run_directory import claim_run, read_settings
from tests.support import tiny_checkpoints
from tests.support.alone import launch_here
from tests.support.drivers import kill_driver
from tests.support.images import pixels
from tests.training.test_pretrain import assert_same_run
from training.logs import log
from training.pretrain import pretrain
from training.setup.failures import reason
from training.setup.launch import launch_on_ray_train
from training.setup.training_run import TrainingRun
from training.sweep.config import SweepConfig
from training.sweep.sweep import FREE, _plain, _run_of, sweep
from training.sweep.trial import FAILED, run_trial
from training.sweep.trials import make_trials

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


STEPS, BATCH, LENGTH = 40, 4, 17
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


def launch_the_first_here(run: TrainingRun) -> None:
    """The first trial without Ray Train, which takes a fraction of the time."""
    launch = launch_here if run.directory.name.startswith("000") else launch_on_ray_train
    launch(run)


def run_names(grid: list[str]) -> list[str]:
    return [trial.name for trial in make_trials(grid, [], 1, np.random.default_rng(0))]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_run_again_it_repeats_no_finished_run_and_goes_on_in_half_of_one(
    config: SweepConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connect()
    config = replace(config, grid=GRID)
    trials = make_trials(GRID, [], 1, np.random.default_rng(0))
    runs = [_run_of(config, trial, config.out) for trial in trials]
    first, second, _ = (run.out for run in runs)
    kill_driver(
        sweep,
        replace(config, concurrent=1),
        launch=launch_the_first_here,
        when=lambda: log.last_step(second) >= STEPS // 4,
    )
    before = (first / "log.jsonl").stat().st_mtime_ns
    assert (first / "summary.json").exists()
    assert not (second / "summary.json").exists()

    # Two at a time on two CPUs: a run that held one itself would wait for its worker for ever.
    with caplog.at_level(logging.INFO, "evo.training"):
        run_command(replace(config, concurrent=2))
    assert "2 runs, 2 at a time" in caplog.text
    assert first.name not in caplog.text
    assert (first / "log.jsonl").stat().st_mtime_ns == before
    results = pd.read_parquet(config.out / "results.parquet")
    assert list(results["status"]) == ["finished"] * 3
    assert list(results["steps"]) == [STEPS] * 3
    assert results["final_perplexity"].is_monotonic_increasing
    best = results.iloc[0]
    assert (best["learning_rate"], best["curve_tokens"][-1]) == (0.01, config.tokens)
    assert "best: --learning-rate 0.01: " in capsys.readouterr().out
    # A colour for each learning rate; the best, which is the last of the three, is drawn bold.
    assert pixels(config.out / "sweep.png", COLOURS[2]) > 200
    assert not (config.out / "tune").exists()

    # The one that was cut off is the run that it would have been.
    alone = replace(runs[1], out=tmp_path / "alone")
    pretrain(alone, launch=launch_here)
    assert_same_run(second, alone.out)


def fail_all_but_the_first(run: TrainingRun) -> None:
    """Workers of the other trials meet a defect, which is raised from itself."""
    if run.directory.name.startswith("000"):
        return launch_here(run)
    with (run.directory.parent / "tries").open("a") as tries:
        tries.write(f"{run.directory.name}\n")
    try:
        raise LookupError("no such thing\nand more")
    except LookupError as error:
        raise error from error


@pytest.mark.slow
def test_a_defect_is_told_in_one_line_and_not_tried_again_and_the_finished_show_their_results(
    config: SweepConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["learning_rate=1e-2,1e-3"]
    config = replace(config, grid=grid, out=tmp_path / "out", tokens=4 * BATCH * LENGTH)
    outcome = sweep(config, launch=fail_all_but_the_first)
    good, bad = run_names(grid)
    assert (config.out / "trials" / "tries").read_text().splitlines() == [bad]
    traceback = config.out / "trials" / bad / "error.txt"
    assert "LookupError: no such thing" in traceback.read_text()
    results = outcome.results.set_index("trial")
    assert results.loc[bad, "reason"] == f"LookupError: no such thing (traceback in {traceback})"
    assert results.loc[good, "reason"] is None
    console = Console(width=400, record=True, color_system=None)
    console.print(outcome.table)
    shown = console.export_text()
    assert "finished:" not in shown
    assert "failed: LookupError: no such thing" in shown


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_is_stopped_early_and_one_fails_and_the_rest_goes_on(
    config: SweepConfig,
) -> None:
    connect()
    grid = ["learning_rate=1e-2,1e-6,1e30"]
    other = replace(config, out=config.out.with_name("asha"), grid=grid, asha=True, concurrent=1)
    good, stopped, failed = run_names(grid)
    message = f"1 of 3 runs failed, {failed} because: the loss is nan"
    outcome = sweep(other, launch=launch_here)
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
        sweep(other, launch=launch_here).check_failures()
    assert (other.out / "trials" / stopped / "log.jsonl").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="tokens was"):
        sweep(replace(other, tokens=config.tokens * 2))


def test_another_spelling_or_place_of_the_text_is_the_same_text(
    config: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(**changes: Any) -> None:
        same = replace(config, **changes)
        claim_run(tmp_path / "out", _plain(same, tmp_path / "out"), free=FREE)

    claim()
    path = Path(config.sources[0])
    (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(path.parent)
    for same in (path.name, f"./{path.name}", str(tmp_path / path.name)):
        claim(text=same)
    with pytest.raises(UserError, match="the text that --text names has other content"):
        claim(text=config.validation_text)
    settings = read_settings(tmp_path / "out")
    del settings["text_hash"], settings["validation_hash"]  # as it was before they were recorded
    (tmp_path / "out" / "settings.yaml").write_text(yaml.safe_dump(settings))
    claim()


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


def test_a_trial_that_cannot_start_reports_why(config: SweepConfig, tmp_path: Path) -> None:
    (trial,) = make_trials(["model=nowhere"], [], 1, np.random.default_rng(0))
    run = _run_of(replace(config, sequence_length=LENGTH), trial, tmp_path)
    assert "no directory" in run_trial(run)[FAILED]


def test_a_trial_reports_a_defect_that_was_raised_from_itself(
    config: SweepConfig, tmp_path: Path
) -> None:
    _, trial = make_trials(["learning_rate=1e-2,1e-3"], [], 1, np.random.default_rng(0))
    run = _run_of(config, trial, tmp_path)
    assert run_trial(run, fail_all_but_the_first)[FAILED] == (
        f"LookupError: no such thing (traceback in {run.out / 'error.txt'})"
    )


def test_a_trial_that_ends_by_a_defect_is_told_by_its_exception() -> None:
    connect()

    @ray.remote
    def fail() -> None:
        raise LookupError("of a library\nand more")

    with pytest.raises(LookupError) as raised:
        ray.get(fail.remote())
    assert isinstance(raised.value, RayTaskError)
    assert reason(raised.value) == "LookupError: of a library"
    died = WorkerGroupError("a traceback", {1: MemoryError("in a worker")})
    assert reason(died) == "MemoryError: in a worker"
