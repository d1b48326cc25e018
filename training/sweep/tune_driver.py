"""Run the trials of a sweep on Ray Tune, each on its share of the cluster."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from evo.errors import UserError
from evo.ray_connection import connect
from evo.storage.files import write_whole
from evo.storage.names import ascii_name
from evo.storage.strict_json import dumps
from training.config import PretrainConfig
from training.logs import log
from training.run_directory import SUMMARY
from training.setup.failures import reason
from training.setup.launch import launch_on_ray_train
from training.setup.training_run import Launch
from training.setup.worker_resources import workers_and_gpus
from training.sweep.trial import FAILED, METRIC, STOPPED, TIME, run_trial

REDUCTION = 3
"""ASHA's reduction factor: a third of the trials at a rung go on, to three times its tokens."""

RUNGS = 2
MOST_FAILURES = 3
"""A trial whose process has died, as with its node, is started again this often."""

RESERVED: dict[str, float] = {"memory": 1}
"""Resources of a trial's own process. It holds no CPU, which its workers need: with two trials on
two CPUs, a process that holds one would wait for its worker for ever, and a process that holds a
thousandth would keep the other's from starting. Tune wants something to be reserved; a byte is."""

TUNE_ENVIRONMENT = {
    # Relative names in what a trial reads are the driver's.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Our own loggers write what a run logs.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # The last report of a trial is of its end, not of a validation.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # The new output prints a box even where it is to be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ctrl-C ends the command.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}

logger = logging.getLogger("evo.training")


def run_trials(
    runs: dict[str, PretrainConfig],
    *,
    storage: Path,
    concurrent: int | None,
    asha: bool,
    on_end: Callable[[], None],
    launch: Launch = launch_on_ray_train,
) -> dict[str, str]:
    """Run trials to their ends.

    Args:
        runs: settings of the runs by name, in the order in which they start.
        storage: a directory for Tune, absolute.
        concurrent: number of runs at the same time; by default as many as there is room for.
        asha: whether trials may end early.
        on_end: called after each trial.
        launch: runs the training loop of a trial.

    Returns:
        The reason of each failure, by the trial's name.

    Raises:
        UserError: a run needs more than the whole cluster has.
    """
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("ray.tune", "ray.train._internal"):  # errors are shown by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    connect()
    concurrent = min(concurrent or _room(runs), len(runs))
    threads = max(1, int(ray.cluster_resources().get("CPU", 1.0)) // concurrent)
    runs = {
        name: replace(run, threads=run.threads or max(1, threads // (run.workers or 1)))
        for name, run in runs.items()
    }
    tuner = tune.Tuner(
        tune.with_resources(
            lambda setting: run_trial(runs[setting["trial"]], launch),
            tune.PlacementGroupFactory([RESERVED]),
        ),
        param_space={"trial": tune.grid_search(list(runs))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=concurrent,
            scheduler=_asha(runs) if asha else None,
            trial_name_creator=lambda trial: ascii_name(trial.config["trial"]),
            trial_dirname_creator=lambda trial: ascii_name(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=tune.FailureConfig(max_failures=MOST_FAILURES),
            callbacks=[_Watch(runs, on_end)],
            verbose=0,
        ),
    )
    logger.info("%d runs, %d at a time", len(runs), concurrent)
    results = tuner.fit()
    failures = {name: _failure(results[number]) for number, name in enumerate(runs)}
    return {name: failure for name, failure in failures.items() if failure}


def _asha(runs: dict[str, PretrainConfig]) -> ASHAScheduler:
    """The scheduler that ends trials early, by their tokens."""
    tokens = max(run.tokens for run in runs.values())
    return ASHAScheduler(
        time_attr=TIME,
        metric=METRIC,
        mode="min",
        max_t=tokens,
        grace_period=max(1, tokens // REDUCTION**RUNGS),
        reduction_factor=REDUCTION,
        stop_last_trials=False,
    )


def _failure(result: tune.Result) -> str | None:
    """Why a trial failed; None where it did not."""
    return reason(result.error) if result.error else (result.metrics or {}).get(FAILED)


def _room(runs: dict[str, PretrainConfig]) -> int:
    """The number of the largest runs that the cluster can hold at the same time."""
    cluster = ray.cluster_resources()
    room = []
    for run in runs.values():
        workers, gpus = workers_and_gpus(run.workers, run.gpus_per_worker)
        kind, amount = "CPU", float(workers * (run.threads or 1))
        if gpus:
            kind, amount = "GPU", workers * gpus
        room.append(int(cluster.get(kind, 0.0) / amount + 1e-9))
    return max(1, min(room))


class _Watch(tune.Callback):
    """Logs the start and end of trials, and marks those that were stopped early."""

    def __init__(self, runs: dict[str, PretrainConfig], on_end: Callable[[], None]) -> None:
        self._runs, self._on_end, self._ended = runs, on_end, 0

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        logger.info("%s: started", trial)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        run = Path(self._runs[str(trial)].out)
        reached = {TIME: trial.last_result.get(TIME)}
        if why := trial.last_result.get(FAILED):
            self._say(trial, f"failed: {why}")
        elif (run / SUMMARY).is_file():
            self._say(trial, f"ended, validation perplexity {_last(run):.2f}")
        else:
            if not (run / STOPPED).is_file():
                self._try(lambda: write_whole(run / STOPPED, f"{dumps(reached)}\n"))
            self._say(trial, f"stopped early, validation perplexity {_last(run):.2f}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._say(trial, "failed")

    def _say(self, trial: Any, what: str) -> None:
        self._ended += 1
        logger.info("%s: %s (%d of %d)", trial, what, self._ended, len(self._runs))
        self._try(self._on_end)

    def _try(self, write: Callable[[], None]) -> None:
        """Write what is written again at the end: in Tune's loop an error would be its traceback,
        and end the other trials."""
        try:
            write()
        except UserError as error:
            logger.warning("%s", error)


def _last(run: Path) -> float:
    return next((row[METRIC] for row in reversed(log.rows(run)) if METRIC in row), math.nan)
