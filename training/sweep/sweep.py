"""`evo sweep`: pretraining runs over settings, side by side on Ray Tune.

The trials are a function of the settings and the seed, and a trial's state is its run directory:
a sweep that was killed is run again, which starts what has not ended, and those go on from their
checkpoints. Tune keeps nothing from one start to the next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from evo.data.reading import PLAIN
from evo.data.reading.text_identity import text_identity
from evo.errors import UserError
from evo.ray_connection import connect
from evo.storage.files import exclusive
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.run_directory import claim_run, read_settings
from training.config import PretrainConfig
from training.loop.run_settings import default_validation_tokens
from training.run_directory import RESULT
from training.setup.launch import launch_on_ray_train
from training.setup.training_run import Launch
from training.sweep.config import SweepConfig
from training.sweep.sweep_results import ended, flags, read_results, table, write_results
from training.sweep.trials import Trial, make_trials
from training.sweep.tune_driver import run_trials

TRIALS = "trials"
TUNE = "tune"
"""Tune writes here while it runs; nothing of it is needed afterwards."""

FREE = (
    "samples", "concurrent", "workers", "gpus_per_worker", "threads", "checkpoint_every", "loggers",
    "parallel", "shard_teacher", "activation_checkpointing", "compile", "on_nan", "log_blocks",
    "micro_batch", "text", "validation_text", "keep_checkpoints", "keep_every", "grace",
)  # fmt: skip
"""These settings may differ from one start of a sweep to the next."""


@dataclass(frozen=True)
class SweepOutcome:
    """The results of a sweep once every trial has ended or failed.

    Attributes:
        results: a row per trial, the best first, as `sweep_results.read_results` makes them.
        trials: the trials of the sweep.
        out: the sweep's directory, as the user named it.
    """

    results: pd.DataFrame
    trials: list[Trial]
    out: Path

    @property
    def settings(self) -> list[str]:
        """The names of the settings that the trials vary."""
        return list(self.trials[0].settings)

    @property
    def table(self) -> Table:
        """The results as a table for the terminal."""
        return table(self.results, self.settings, str(self.out))

    @property
    def best(self) -> str | None:
        """The best finished trial's flags and checkpoint as a line; None if no trial finished."""
        best = self.results.iloc[0]
        if best["status"] != "finished":
            return None
        trial = next(trial for trial in self.trials if trial.name == best["trial"])
        return f"best: {flags(trial)}: {self.out / TRIALS / trial.name / RESULT}"

    def check_failures(self) -> None:
        """Refuse an outcome with failed trials.

        Raises:
            UserError: at least one trial failed.
        """
        failed = self.results[self.results["status"] == "failed"]
        if len(failed):
            first = failed.iloc[0]
            raise UserError(
                f"{len(failed)} of {len(self.results)} runs failed, {first['trial']} because: "
                f"{first['reason']}"
            )


def sweep(config: SweepConfig, *, launch: Launch = launch_on_ray_train) -> SweepOutcome:
    """Run all trials that have not ended.

    Leaves `trials/NAME/` (each the run directory of a pretraining run) and `results.parquet` in
    `out`, which all nodes must be able to reach.

    Args:
        config: the settings that the user has given.
        launch: runs the training loop of a trial.

    Raises:
        UserError: settings that no run can have.
    """
    trials = make_trials(
        config.grid, config.random, config.samples, np.random.default_rng(config.seed)
    )
    directory = Path(config.out).absolute()
    runs = {trial.name: _run_of(config, trial, directory) for trial in trials}
    claim_run(directory, _plain(config, directory), free=FREE, first=connect)
    with exclusive(directory):
        unfinished = [name for name, run in runs.items() if not ended(run.out)]
        failures: dict[str, str] = {}
        if unfinished:
            # Those that have ended take part in ASHA's comparisons, and come first.
            others = [name for name in runs if name not in unfinished] if config.asha else []
            shutil.rmtree(directory / TUNE, ignore_errors=True)
            failures = run_trials(
                {name: runs[name] for name in [*others, *unfinished]},
                storage=directory / TUNE,
                concurrent=config.concurrent,
                asha=config.asha,
                on_end=lambda: write_results(read_results(directory / TRIALS, trials), directory),
                launch=launch,
            )
            shutil.rmtree(directory / TUNE, ignore_errors=True)
        results = read_results(directory / TRIALS, trials, failures)
        write_results(results, directory)
    return SweepOutcome(results, trials, config.out)


def _run_of(config: SweepConfig, trial: Trial, directory: Path) -> PretrainConfig:
    """The settings of a trial's run, which may start in another working directory."""
    common = {field.name: getattr(config, field.name) for field in fields(PretrainConfig)}
    out = directory / TRIALS / trial.name
    run = PretrainConfig(**common | trial.settings | {"out": out})
    if config.sequence_length is None and {"model", "teacher_logits"} & set(trial.settings):
        raise UserError(
            "models of a sweep are validated on sequences of one length: give --sequence-length"
        )
    return replace(
        run,
        workers=run.workers or 1,
        validation_tokens=config.validation_tokens or default_validation_tokens(config.tokens),
        **{name: _absolute(getattr(run, name)) for name in ("model", "teacher", "teacher_logits")},
        **{name: _absolute(getattr(run, name)) for name in ("text", "validation_text")},
    )


def _absolute(source: Any) -> Any:
    """A path, or sources of text, as names that hold in any working directory."""
    if isinstance(source, Sequence) and not isinstance(source, str):
        return [_absolute(part) for part in source]
    if isinstance(source, Path):
        return source.absolute()
    if source is None or source.startswith(("hf:", "stdlib:")):
        return source
    return os.path.abspath(source)


def _plain(config: SweepConfig, directory: Path) -> dict[str, Any]:
    """The settings that the sweep's results are a function of, and those in `FREE`.

    The texts are known by their hashes, which a sweep does not have that was begun before these
    were recorded.
    """
    plain = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(config).items()
        if name != "out" and name not in asdict(PLAIN)
    } | config.reading.changes
    if (directory / SETTINGS).is_file() and "text_hash" not in read_settings(directory):
        return plain
    assert config.validation_text is not None
    return plain | {
        "text_hash": text_identity(config.sources, config.reading),
        "validation_hash": text_identity([config.validation_text], config.reading),
    }
