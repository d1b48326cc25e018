"""The run directory of a search: its settings, and what must stay the same when it resumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from evo.commands.search.config import FREE
from evo.commands.search.inputs import SearchInputs
from evo.errors import UserError
from evo.genome.latency_model import FILE as LATENCIES
from evo.search import warm_start
from evo.search.history.history import State
from evo.search.run_files import SUMMARY
from evo.search.stopping import LIMITS
from evo.storage.files import output_errors
from evo.storage.records import read_json, reading
from evo.storage.run_directory import FILE, Settings, claim_run, difference, other_setting
from training.selection.config import default_out

BUDGET = ("generations", "patience")
STUDY = ("bins", "spaces")
GATES = "gate_text_hash"
"""With more of these, a run goes on as if they had been asked for at once. The first fine space
brings a text of gradients."""


def claim(inputs: SearchInputs, first: Callable[[], None] = lambda: None) -> bool:
    """Make the run directory, or find that it was made with the same settings.

    Args:
        inputs: the run's.
        first: called before anything is written.

    Returns:
        Whether the run goes on where an earlier start has ended.

    Raises:
        UserError: the directory holds something else, or a run with other settings.
    """
    out = inputs.config.out
    resumed = claim_run(
        out,
        _settings(inputs),
        free=FREE,
        growing=(*BUDGET, *LIMITS, *STUDY, GATES),
        reopen=partial(_reopen, inputs),
        first=first,
    )
    if inputs.starts and not (out / warm_start.FILE).is_file():
        warm_start.save(inputs.starts, out / warm_start.FILE)
    if inputs.latencies and not (out / LATENCIES).is_file():
        inputs.latencies.save(out / LATENCIES)
    return resumed


def _reopen(inputs: SearchInputs, before: Settings, now: Settings) -> None:
    """Make a run that may have finished an unfinished one, as its searches are to go on.

    Summary and winners go before the new settings are written: whenever this is cut off, no winner
    stands for more generations than it was found in.

    Raises:
        UserError: what is there is not the beginning of what is asked for now.
    """
    run = inputs.config.out
    with reading(run / FILE):
        _refuse_shorter(run, before, now)
        _refuse_fewer(inputs, before, now)
        is_longer = any(before.get(key) != now.get(key) for key in (*BUDGET, *LIMITS))
        bins = list(before["bins"])
    for bin in bins:
        train_off = default_out(run, bin)
        if train_off.exists() and (is_longer or set(before["spaces"]) != set(now["spaces"])):
            raise UserError(
                f"{train_off} is a train-off of the candidates that were there: remove it to "
                "search on, and run it again"
            )
    with output_errors(run):
        (run / SUMMARY).unlink(missing_ok=True)
        for winner in run.glob("searches/*/winner") if is_longer else ():
            gone = winner.with_name(".winner.old.tmp")
            shutil.rmtree(gone, ignore_errors=True)
            winner.rename(gone)  # whole or not at all
            shutil.rmtree(gone)


def _refuse_shorter(run: Path, before: Settings, now: Settings) -> None:
    """Refuse a budget that a search has used up already."""
    for path in sorted(run.glob("searches/*/state.json")):
        done = read_json(path, State)["generation"] - 1
        for key in BUDGET:
            asked = now[key]
            is_less = asked is not None and (before[key] is None or asked < before[key])
            if is_less and done > asked:
                raise UserError(
                    f"{run}: {difference(key, before[key], asked)}, and {path.parent.name} has "
                    f"gone on for {done} generations: give at least {done}, or another --out"
                )


def _refuse_fewer(inputs: SearchInputs, before: Settings, now: Settings) -> None:
    """Refuse bins or spaces that are taken out, and others that would change those there are."""
    run = inputs.config.out
    for key in STUDY:
        if not set(before[key]) <= set(now[key]):
            raise UserError(
                f"{run}: {difference(key, before[key], now[key])}: {key} are added to a run, never "
                "taken out; name all of them, or another --out"
            )
    had_fine = any(space.startswith("fine") for space in before["spaces"])
    if had_fine and before.get(GATES) != now[GATES]:
        raise other_setting(run, GATES, before, now)
    is_larger = any(set(before[key]) != set(now[key]) for key in STUDY)
    was_found = before["micro_batch"] is not None and inputs.config.micro_batch is None
    if is_larger and was_found and inputs.scoring.device != "cpu":
        raise UserError(
            f"{run}: --micro-batch {before['micro_batch']} was found for the bins and spaces that "
            "were there: give it, too, to add others"
        )


def _settings(inputs: SearchInputs) -> dict[str, Any]:
    config, scoring = inputs.config, inputs.scoring
    start_from = config.start_from
    return asdict(config) | {
        "teacher": str(inputs.teacher.path.resolve()),
        "out": str(config.out.resolve()),
        "text": config.sources,
        "dtype": scoring.dtype,
        "device": scoring.device,
        "micro_batch": scoring.micro_batch,
        "expressible_in": None if config.expressible_in == "export" else config.expressible_in,
        "sequence_length": inputs.length,
        "teacher_hash": inputs.teacher.hash,
        "text_hash": inputs.text.hash,
        "order_text_hash": inputs.order_text.hash,
        "gate_text_hash": inputs.gate_text_hash,
        "text_note": inputs.text.note,
        "start_from": str(start_from.resolve()) if start_from else None,
        "select": str(config.select.resolve()) if config.select else None,
        "start_hash": warm_start.digest(inputs.starts) if inputs.starts else None,
    }
