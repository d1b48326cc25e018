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
from evo.search.run_files import SUMMARY
from evo.storage.files import output_errors
from evo.storage.records import read_json
from evo.storage.run_directory import Settings, claim_run, difference

BUDGET = ("generations", "patience")
"""With more of these, a run goes on as if they had been asked for at once."""


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
        growing=BUDGET,
        reopen=partial(_reopen, out),
        first=first,
    )
    if inputs.starts and not (out / warm_start.FILE).is_file():
        warm_start.save(inputs.starts, out / warm_start.FILE)
    if inputs.latencies and not (out / LATENCIES).is_file():
        inputs.latencies.save(out / LATENCIES)
    return resumed


def _reopen(run: Path, before: Settings, now: Settings) -> None:
    """Make a run that may have finished an unfinished one, as its searches are to go on.

    Summary and winners go before the new settings are written: whenever this is cut off, no winner
    stands for more generations than it was found in.

    Raises:
        UserError: a search has gone on for longer than is asked for now.
    """
    for path in sorted(run.glob("searches/*/state.json")):
        done = read_json(path, dict[str, Any])["generation"] - 1
        for key in BUDGET:
            asked = now[key]
            if before[key] != asked and asked is not None and done > asked:
                raise UserError(
                    f"{run}: {difference(key, before[key], asked)}, and {path.parent.name} has "
                    f"gone on for {done} generations: give at least {done}, or another --out"
                )
    with output_errors(run):
        (run / SUMMARY).unlink(missing_ok=True)
        for winner in run.glob("searches/*/winner"):
            gone = winner.with_name(".winner.old.tmp")
            shutil.rmtree(gone, ignore_errors=True)
            winner.rename(gone)  # whole or not at all
            shutil.rmtree(gone)


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
