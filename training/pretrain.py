"""Pretrain a checkpoint: the driver's side."""

from __future__ import annotations

import shutil
from functools import partial
from typing import Any

from evo.errors import UserError
from evo.ray_connection import connect
from evo.storage.files import exclusive, write_whole
from evo.storage.records import read_json
from evo.storage.run_directory import claim_run
from evo.storage.strict_json import dumps
from evo.termination import grace
from training.config import PretrainConfig
from training.logs import log
from training.logs.log_tail import Watcher, log_tail
from training.logs.loggers import open_loggers
from training.logs.progress import ProgressDisplay
from training.loop.loop import Stopped
from training.run_directory import CHECKPOINTS, FREE, RESULT, STOP, SUMMARY, checkpoints_of
from training.setup.launch import launch_on_ray_train
from training.setup.longer_run import GROWING, as_begun, reopen
from training.setup.older_checkpoint import take_over_log
from training.setup.training_run import Launch, TrainingRun, open_run

SUMMARISED = ("tokens", "flops", "seconds", "loss", "validation_perplexity", "skipped")
"""These columns of the log's last row stand in the summary, beside its step."""


def pretrain(
    config: PretrainConfig,
    *,
    watcher: Watcher | None = None,
    launch: Launch = launch_on_ray_train,
) -> dict[str, Any]:
    """Train, or go on with a run that was cut off; a finished run is left alone.

    Leaves `model/` (the checkpoint), `log.jsonl` (a line per step), `settings.yaml` and
    `summary.json` in the run directory, which all workers must be able to reach. The watcher is
    given the log's rows; by default it is the display of progress on stderr.

    Returns:
        The summary: `steps`, `tokens`, `flops`, `seconds`, `loss`, `validation_perplexity` where
        there is validation, `skipped` where updates were left out, and `settings`.

    Raises:
        UserError: bad input, a run directory of other settings, or a loss that is not finite.
        KeyboardInterrupt: the run was ended by a signal; at a SIGTERM there is a checkpoint, where
            one could be written within `grace`.
    """
    run = open_run(as_begun(config))
    directory, settings = run.directory, run.settings
    on_cluster = launch is launch_on_ray_train
    claim_run(
        directory,
        run.recorded,
        free=FREE,
        growing=GROWING,
        reopen=partial(reopen, directory),
        first=connect if on_cluster else lambda: None,
    )
    with exclusive(directory):
        if (directory / SUMMARY).is_file():
            print(f"{directory} is finished: nothing is left to do")
            return read_json(directory / SUMMARY, dict[str, Any])
        loggers = open_loggers(config.loggers, directory, run.recorded)
        if watcher is None:
            watcher = ProgressDisplay(directory.name, settings.steps, settings.flops)
        if run.resume_from is not None and log.last_step(directory) < 0:
            take_over_log(run.resume_from, directory)
        stop = directory / STOP
        stop.unlink(missing_ok=True)
        with log_tail(directory, [watcher, *loggers]), grace(config.grace, stop.touch):
            try:
                launch(run)
            except Stopped as error:
                raise KeyboardInterrupt from error
            finally:
                stop.unlink(missing_ok=True)
        return finish(run)


def finish(run: TrainingRun) -> dict[str, Any]:
    """Write the summary of a run that has ended, and remove what only an interrupted one needs.

    Raises:
        UserError: its workers' results are not there.
    """
    directory = run.directory
    rows = log.rows(directory)
    if not rows or not (directory / RESULT).is_dir():
        raise UserError(
            f"the workers' results are not in {directory}: --out must be on a file system "
            "that all nodes share"
        )
    last = rows[-1]
    summary = {"steps": last["step"]} | {name: last[name] for name in SUMMARISED if name in last}
    summary["settings"] = run.recorded
    write_whole(directory / SUMMARY, dumps(summary, indent=2) + "\n")
    _remove_checkpoints(run)
    return summary


def _remove_checkpoints(run: TrainingRun) -> None:
    """Remove the checkpoints that are not to stay after the end, and what Ray keeps beside them."""
    stay = [
        path for step, path in checkpoints_of(run.directory).items() if run.keep.after_the_end(step)
    ]
    checkpoints = run.directory / CHECKPOINTS
    for path in checkpoints.iterdir() if stay else ():
        if path not in stay:
            shutil.rmtree(path, ignore_errors=True)
    if not stay:
        shutil.rmtree(checkpoints, ignore_errors=True)
