"""Pretrain several checkpoints side by side, each on one worker: the driver's side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from evo.errors import UserError
from evo.ray_connection import connect
from evo.storage.run_directory import claim_run
from training.config import PretrainConfig
from training.logs.log_tail import log_tail
from training.logs.loggers import open_loggers
from training.logs.steps_display import StepsDisplay
from training.loop.loop import Diverged
from training.pretrain import finish
from training.run_directory import FREE, SUMMARY
from training.setup.launch import shared_text
from training.setup.training_run import open_run
from training.setup.units import Result, Unit, train_units
from training.setup.worker_resources import WorkerResources


def pretrain_side_by_side(name: str, configs: Sequence[PretrainConfig]) -> None:
    """Run short trainings, or go on with them, each on one worker and as many at a time as the
    cluster has room for.

    Each run directory is left as `pretrain` leaves it.

    Args:
        name: what the line of progress begins with.
        configs: the runs' settings, with as many threads for each worker.

    Raises:
        UserError: as `pretrain`; the runs that have ended by then are finished.
    """
    runs = [open_run(replace(config, workers=1)) for config in configs]
    for run in runs:
        claim_run(run.directory, run.recorded, free=FREE, first=connect)
    by_name = {str(run.directory): run for run in runs if not (run.directory / SUMMARY).is_file()}
    if not by_name:
        return
    connect()
    gpus = max(run.gpus_per_worker for run in runs)
    threads = max(run.config.threads or 1 for run in runs)
    workers = WorkerResources(len(by_name), 1.0 if gpus else float(threads), gpus)
    units = list[Unit]()
    # The longest first: the last would otherwise train alone.
    for key, run in sorted(by_name.items(), key=lambda item: -item[1].settings.flops):
        text, validation = shared_text(run.inputs)
        units.append(Unit(key, run.job(text=text, validation=validation, threads=threads)))

    def on_end(unit: Unit, result: Result) -> None:
        if isinstance(result, Diverged):
            raise UserError(f"{unit.name}: {result}")
        finish(by_name[unit.name])

    with ExitStack() as stack:
        for run in by_name.values():
            loggers = open_loggers(run.config.loggers, run.directory, run.recorded)
            stack.enter_context(log_tail(run.directory, loggers))
        total = sum(run.settings.steps for run in by_name.values())
        directories = [run.directory for run in by_name.values()]
        display = stack.enter_context(StepsDisplay(name, total, directories))
        train_units(units, workers, on_end=on_end, on_look=display.look)
