"""How far a run is, read from its log."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training import log
from training.plan import Plan

REFRESH_SECONDS = 1.0
LINE_SECONDS = 15.0


def show_progress(run: Path, plan: Plan, finished: threading.Event) -> None:
    """Show a bar on a terminal, else a line now and then; return once the event is set.

    Args:
        run: the run directory.
        plan: says how many steps there are.
        finished: ends it.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        _lines(run, plan, finished)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(run.name, total=plan.steps, state="starting")
        while True:
            done = finished.wait(REFRESH_SECONDS)
            if rows := log.rows(run):
                progress.update(task, completed=rows[-1]["step"], state=_state(rows, plan))
            if done:
                return


def _lines(run: Path, plan: Plan, finished: threading.Event) -> None:
    shown, last = -1, time.monotonic()
    while True:
        done = finished.wait(REFRESH_SECONDS)
        if not done and time.monotonic() - last < LINE_SECONDS:
            continue
        rows = log.rows(run)
        if rows and rows[-1]["step"] > shown:
            shown, last = rows[-1]["step"], time.monotonic()
            print(f"{run.name}: {_state(rows, plan)}{_time_left(rows, plan)}", flush=True)
        if done:
            return


def _state(rows: list[dict[str, Any]], plan: Plan) -> str:
    last = rows[-1]
    parts = [f"step {last['step']}/{plan.steps}"]
    if "loss" in last:
        parts.append(f"loss {last['loss']:.3f}")
    perplexities = [row["validation_perplexity"] for row in rows if "validation_perplexity" in row]
    if perplexities:
        parts.append(f"validation perplexity {perplexities[-1]:.2f}")
    if "tokens_per_second" in last:
        parts.append(f"{last['tokens_per_second']:,.0f} tokens/s")
    if "skipped" in last:
        parts.append(f"{last['skipped']} steps without an update")
    return ", ".join(parts)


def _time_left(rows: list[dict[str, Any]], plan: Plan) -> str:
    last = rows[-1]
    if not 0 < last["step"] < plan.steps:
        return ""
    seconds = last["seconds"] / last["step"] * (plan.steps - last["step"])
    return f", {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"
