"""The results of a sweep's trials, read from their run directories."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from evo.storage.files import atomic_file
from training.logs import log
from training.run_directory import SUMMARY
from training.sweep.trial import METRIC, STOPPED
from training.sweep.trials import Trial, shown

RESULTS = "results.parquet"


def ended(run: Path) -> bool:
    """Whether a trial is finished, or was stopped early, and must not run again."""
    return (run / SUMMARY).is_file() or (run / STOPPED).is_file()


def read_results(
    directory: Path, trials: Sequence[Trial], failures: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """A row per trial, the best first, those that have not ended last.

    The columns are `trial`; the settings that were tried; `status` (finished, stopped, failed,
    or unfinished); `reason` of a failure; from the last line of the log `steps`, `trained_tokens`,
    `flops`, `seconds`, `final_loss`, `final_perplexity` (the last validation's); and, as lists
    over all validations, `curve_tokens`, `curve_flops`, `curve_perplexity`.

    Args:
        directory: parent of the trials' run directories.
        trials: the sweep's trials.
        failures: reason of each failure, by the trial's name.
    """
    failures = failures or {}
    rows = [_row(directory / trial.name, trial, failures.get(trial.name)) for trial in trials]
    frame = pd.DataFrame(rows)
    # Else a None would make floats of whole numbers, and NaN of itself beside a text.
    for name in (*trials[0].settings, "reason"):
        frame[name] = pd.Series([row[name] for row in rows], dtype=object)
    order = {"finished": 0, "stopped": 1, "failed": 2, "unfinished": 2}
    frame["order"] = frame["status"].map(order)
    frame = frame.sort_values(["order", "final_perplexity", "trial"], kind="stable")
    return frame.drop(columns="order").reset_index(drop=True)


def _row(run: Path, trial: Trial, reason: str | None) -> dict[str, Any]:
    logged = log.rows(run)
    curve = [row for row in logged if METRIC in row]
    last = logged[-1] if logged else {}
    if (run / SUMMARY).is_file():
        status = "finished"
    elif (run / STOPPED).is_file():
        status = "stopped"
    else:
        status = "unfinished" if reason is None else "failed"
    settings = {name: _plain(value) for name, value in trial.settings.items()}
    return {
        "trial": trial.name,
        **settings,
        "status": status,
        "reason": reason if status == "failed" else None,
        "steps": last.get("step", 0),
        "trained_tokens": last.get("tokens", 0),
        "flops": float(last.get("flops", 0)),
        "seconds": last.get("seconds", 0.0),
        "final_loss": float(last.get("loss", math.nan)),
        "final_perplexity": curve[-1][METRIC] if curve else math.nan,
        "curve_tokens": [row["tokens"] for row in curve],
        "curve_flops": [float(row["flops"]) for row in curve],
        "curve_perplexity": [row[METRIC] for row in curve],
    }


def _plain(value: Any) -> Any:
    """A setting's value as a column can hold it."""
    if isinstance(value, list):
        return json.dumps(value)
    return str(value) if isinstance(value, Path) else value


def write_results(results: pd.DataFrame, directory: Path) -> None:
    """Write `results.parquet` in a sweep's directory.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_file(directory / RESULTS) as temporary:
        results.to_parquet(temporary, index=False)


def table(results: pd.DataFrame, settings: Sequence[str], title: str) -> Table:
    """The results as a table for the terminal.

    Args:
        results: results of `read_results`.
        settings: names of the settings that were tried.
        title: title of the table.
    """
    shown_table = Table(title=title)
    shown_table.add_column("trial")
    for name in settings:
        shown_table.add_column(name.replace("_", " "), justify="right")
    for name in ("validation\nperplexity", "loss", "tokens", "FLOPs", "seconds"):
        shown_table.add_column(name, justify="right")
    shown_table.add_column("status")
    for row in results.to_dict("records"):
        shown_table.add_row(
            row["trial"].partition("_")[0],
            *(shown(row[name]) for name in settings),
            _number(row["final_perplexity"], ".2f"),
            _number(row["final_loss"], ".3f"),
            f"{row['trained_tokens']:,}",
            _number(row["flops"], ".3g"),
            _number(row["seconds"], ".1f"),
            f"failed: {row['reason']}" if row["status"] == "failed" else row["status"],
        )
    return shown_table


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def flags(trial: Trial) -> str:
    """A trial's settings as they are given to `evo pretrain`."""
    return " ".join(
        f"--{name.replace('_', '-')} "
        f"{value if isinstance(value, Path | str) else json.dumps(value)}"
        for name, value in trial.settings.items()
    )
