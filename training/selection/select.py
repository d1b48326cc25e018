"""`evo select`: the rounds of a train-off, from the finalists to the winner."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evo.errors import UserError
from evo.ray_connection import connect
from evo.storage.files import exclusive, write_whole
from evo.storage.records import reading
from evo.storage.run_directory import claim_run
from evo.storage.strict_json import dumps
from training import run_directory
from training.config import PretrainConfig
from training.logs.log_tail import log_tail
from training.loop.loop import Diverged
from training.run_directory import CHECKPOINTS, SUMMARY
from training.selection import finalists as finalist_files
from training.selection.config import SelectConfig
from training.selection.finalists import cut_out
from training.selection.progress import TrainOffProgress
from training.selection.rounds import Round, Score, ranked, survivors
from training.selection.scores import Scores
from training.selection.summary import Ended, summary_of
from training.selection.summary_file import read_train_off
from training.selection.train_off import FREE, MODELS, TrainOff, open_train_off
from training.setup.launch import shared_text, train_up_to
from training.setup.training_run import TrainingRun
from training.setup.units import PATIENCE_SECONDS, Result, Unit, train_units
from training.setup.worker_resources import WorkerResources, say_waiting

logger = logging.getLogger("evo.training")

FEW_STEPS = 50
"""Measured: benchmarks/ends_best/looks_ahead.md."""


@dataclass(frozen=True)
class Selection:
    """A train-off that has ended.

    Attributes:
        summary: content of its `summary.json`, see `training.selection.summary`.
        out: its directory, as the user named it.
        pretraining: settings of the planned run, with which `evo pretrain` goes on.
    """

    summary: dict[str, Any]
    out: Path
    pretraining: PretrainConfig


def select(config: SelectConfig) -> Selection:
    """Run a train-off, or go on with one that was cut off; a finished one is left alone.

    Leaves in its directory `finalists/` (the checkpoints that began), `runs/` (the run directory of
    each, of which the winner's has a checkpoint to go on from), and `summary.json`.

    Args:
        config: the settings that the user has given.

    Raises:
        UserError: bad input, before anything is written; or all finalists have diverged.
    """
    train_off = open_train_off(config)
    directory = train_off.directory
    claim_run(directory, train_off.recorded, free=FREE, first=connect)
    with exclusive(directory):
        if (directory / SUMMARY).is_file():
            print(f"{directory} is finished: nothing is left to do")
            return _selection(train_off, _finished(directory))
        if finalist_files.load(directory) is None:
            finalist_files.save(train_off.finalists, directory)
        teacher = train_off.whole.inputs.student
        cut_out(train_off.finalists, config.run, train_off.bin, teacher, directory / MODELS)
        runs = {one.candidate: train_off.run_of(one) for one in train_off.finalists}
        for run in runs.values():
            claim_run(run.directory, run.recorded, free=run_directory.FREE)
        summary = summary_of(train_off, runs, _halve(train_off, runs))
        write_whole(directory / SUMMARY, dumps(summary, indent=2) + "\n")
    return _selection(train_off, summary)


def _finished(directory: Path) -> dict[str, Any]:
    """The summary of a train-off that has ended.

    Raises:
        UserError: it is damaged.
    """
    summary = read_train_off(directory)
    assert summary is not None
    return dict(summary)


def _selection(train_off: TrainOff, summary: dict[str, Any]) -> Selection:
    with reading(train_off.directory / SUMMARY):
        candidates = [one.candidate for one in train_off.finalists]
        winner = train_off.finalists[candidates.index(summary["winner"]["candidate"])]
    return Selection(summary, train_off.out, train_off.pretraining(winner))


def _halve(train_off: TrainOff, runs: Mapping[str, TrainingRun]) -> list[Ended]:
    """Run all rounds that are left; return all rounds."""
    scores = Scores(train_off.directory)
    if (first := train_off.rounds[0].step) < FEW_STEPS:
        logger.warning(
            "the first round ends after %d steps: an order by fewer than %d says more of what "
            "networks are before training than of how they end (docs/search.md)", first, FEW_STEPS
        )  # fmt: skip
    connect()
    train = _in_turn(runs) if train_off.shared else _side_by_side(train_off, runs)
    standing, ended = list(runs), list[Ended]()
    with TrainOffProgress(train_off, runs) as progress:
        for number, each in enumerate(train_off.rounds, 1):
            done = scores.at(each.step, standing)
            waiting = [name for name in standing if name not in done]

            def keep(
                name: str, result: Result, *, number: int = number, step: int = each.step
            ) -> None:
                score = _score(result, step)
                scores.add(step, name, score)
                progress.scored(number, name, score)

            train(waiting, each.step, keep, progress)
            before = ended[-1].scores if ended else {}
            ended.append(_end(each, scores.at(each.step, standing), before))
            standing = ended[-1].survivors
            for candidate in set(ended[-1].scores) - set(standing):
                # Nothing goes on from these; with the optimiser's states they are large.
                shutil.rmtree(runs[candidate].directory / CHECKPOINTS, ignore_errors=True)
            if len(standing) == 1:
                break
    return ended


Train = Callable[[list[str], int, Callable[[str, Result], None], TrainOffProgress], None]
"""Trains finalists up to a step, and calls with each one's result."""


def _side_by_side(train_off: TrainOff, runs: Mapping[str, TrainingRun]) -> Train:
    """Each finalist on a worker by itself, as many at a time as there is room for."""
    workers = _workers(train_off)
    text, validation = shared_text(train_off.whole.inputs)
    jobs = {
        name: run.job(text=text, validation=validation, threads=train_off.config.threads)
        for name, run in runs.items()
    }

    def train(
        names: list[str],
        step: int,
        keep: Callable[[str, Result], None],
        progress: TrainOffProgress,
    ) -> None:
        units = [Unit(name, replace(jobs[name], stop_after=step)) for name in names]
        train_units(
            units,
            workers,
            on_end=lambda unit, result: keep(unit.name, result),
            on_look=progress.look,
        )

    return train


def _in_turn(runs: Mapping[str, TrainingRun]) -> Train:
    """One finalist after the other, each on several workers of Ray Train."""

    def train(
        names: list[str],
        step: int,
        keep: Callable[[str, Result], None],
        progress: TrainOffProgress,
    ) -> None:
        for name in names:
            directory = runs[name].directory
            with exclusive(directory, patience=PATIENCE_SECONDS), log_tail(directory, [progress]):
                try:
                    result: Result = train_up_to(step, runs[name])
                except Diverged as error:
                    result = error
                except UserError as error:
                    raise UserError(f"{name}: {error}") from error
            keep(name, result)

    return train


def _score(result: Result, step: int) -> Score:
    if isinstance(result, Diverged):
        return Score(None, str(result))
    if result is None or not math.isfinite(result):
        return Score(None, f"the NLL of the validation text is {result} after step {step}")
    return Score(result)


def _end(each: Round, scores: dict[str, Score], before: dict[str, Score]) -> Ended:
    ranking, left = ranked(scores, before), survivors(scores, before)
    if not left:
        first = ranking[0]
        raise UserError(f"no finalist is left at step {each.step}; {first}: {scores[first].reason}")
    return Ended(each.step, scores, ranking, left)


def _workers(train_off: TrainOff) -> WorkerResources:
    """How many finalists train at the same time, and on what."""
    config, gpus = train_off.config, train_off.whole.gpus_per_worker
    count = config.workers or len(train_off.finalists)
    workers = WorkerResources(count, 1.0 if gpus else float(config.threads), gpus)
    if not (room := workers.room()):
        say_waiting(WorkerResources(1, workers.cpus, gpus))
    logger.info("%d finalists, %d at a time", len(train_off.finalists), min(count, max(1, room)))
    return workers
