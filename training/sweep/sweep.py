"""`evo sweep`: pretraining runs over settings, side by side on Ray Tune.

The trials are a function of the settings and the seed, and a trial's state is its run directory:
a sweep that was killed is run again, which starts what has not ended, and those go on from their
checkpoints. Tune keeps nothing from one start to the next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evo.errors import UserError
from evo.storage.files import exclusive
from evo.storage.run_directory import claim_run
from training.pretrain import PretrainConfig, default_validation_tokens
from training.run_directory import RESULT
from training.sweep.trials import Trial, make_trials

if TYPE_CHECKING:
    import pandas as pd

TRIALS = "trials"
TUNE = "tune"
"""Where Tune writes while it runs; nothing of it is needed afterwards."""

FREE = (
    "samples", "concurrent", "workers", "gpus_per_worker", "threads", "checkpoint_every", "loggers",
    "parallel", "shard_teacher", "activation_checkpointing", "compile", "on_nan", "log_blocks",
    "micro_batch",
)  # fmt: skip
"""May differ from one start of a sweep to the next."""


@dataclass(frozen=True)
class SweepConfig(PretrainConfig):
    """Pretraining runs over settings, side by side on the cluster, ranked by validation perplexity.

    Takes all flags of `evo pretrain`, for what all runs have in common. Interrupted, the same
    command goes on; with more --samples it adds to what there is.

    Attributes:
        grid: settings of which every combination is tried: alpha=0.1,0.2 init=weights,random.
        random: settings for which values are drawn: learning_rate=log:1e-4..1e-2 alpha=0..1, or
            from a few: temperature=1,2,4. The same --seed draws the same.
        samples: how often values are drawn, for each combination of the grid.
        concurrent: runs at the same time, each with its own --workers (by default one) and
            --gpus-per-worker; by default as many as the cluster has room for.
        asha: end a run early whose validation perplexity is not among the best third of those
            that have come to a ninth, or to a third, of the tokens (Li et al. 2020).
    """

    grid: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    samples: int = 1
    concurrent: int | None = None
    asha: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise UserError(f"--samples {self.samples}: it must be at least 1")
        if self.concurrent is not None and self.concurrent < 1:
            raise UserError(f"--concurrent {self.concurrent}: it must be at least 1")
        if self.validation_text is None:
            raise UserError("a sweep compares validation perplexities: give --validation-text")


def sweep(config: SweepConfig) -> pd.DataFrame:
    """Run all trials that have not ended, and print a table of all.

    Leaves `trials/NAME/` (each the run directory of a pretraining run), `results.parquet` and
    `sweep.png` in `out`, which all nodes must be able to reach.

    Returns:
        A row per trial, the best first, as `training.sweep.sweep_results.read_results` says.

    Raises:
        UserError: settings that no run can have, or, once all others have ended, failed trials.
    """
    trials = make_trials(
        config.grid, config.random, config.samples, np.random.default_rng(config.seed)
    )
    directory = Path(config.out).absolute()
    runs = {trial.name: _run_of(config, trial, directory) for trial in trials}
    claim_run(directory, _plain(config), free=FREE)
    with exclusive(directory):
        return _sweep(config, directory, trials, runs)


def _sweep(
    config: SweepConfig, directory: Path, trials: list[Trial], runs: dict[str, PretrainConfig]
) -> pd.DataFrame:
    # Only now: these take seconds to import, which `--help` should not.
    from dashboards.sweep_picture import draw_sweep
    from evo.console import result_console
    from training.sweep.sweep_results import ended, flags, read_results, table, write_results
    from training.sweep.tune_driver import run_trials

    unfinished = [trial.name for trial in trials if not ended(directory / TRIALS / trial.name)]
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
        )
        shutil.rmtree(directory / TUNE, ignore_errors=True)
    results = read_results(directory / TRIALS, trials, failures)
    write_results(results, directory)
    settings = list(trials[0].settings)
    draw_sweep(results, settings, directory / "sweep.png")
    console = result_console()
    console.print(table(results, settings, str(config.out)))
    failed = results[results["status"] == "failed"]
    best = results.iloc[0]
    if best["status"] == "finished":
        model = config.out / TRIALS / best["trial"] / RESULT
        tried = next(trial for trial in trials if trial.name == best["trial"])
        console.print(f"best: {flags(tried)}: {model}", soft_wrap=True)
    if len(failed):
        one = failed.iloc[0]
        raise UserError(
            f"{len(failed)} of {len(results)} runs failed, {one['trial']} because: {one['reason']}"
        )
    return results


def _run_of(config: SweepConfig, trial: Trial, directory: Path) -> PretrainConfig:
    """The settings of a trial's run; it may start in another working directory."""
    common = {one.name: getattr(config, one.name) for one in fields(PretrainConfig)}
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


def _absolute(place: Any) -> Any:
    """A path, or a source of text, as it is told from anywhere."""
    if isinstance(place, Sequence) and not isinstance(place, str):
        return [_absolute(one) for one in place]
    if isinstance(place, Path):
        return place.absolute()
    if place is None or place.startswith(("hf:", "stdlib:")):
        return place
    return os.path.abspath(place)


def _plain(config: SweepConfig) -> dict[str, Any]:
    """The settings that the sweep's results are a function of, and those in `FREE`."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(config).items()
        if name != "out"
    }
