"""`evo search`: run the searches, and print the table of their winners."""

from __future__ import annotations

from typing import Any

from evo.commands.search.config import SearchConfig
from evo.errors import RunFailed


def check(summary: dict[str, Any]) -> None:
    """Refuse to call a search a success in which no candidate could be scored.

    Raises:
        RunFailed: there is one.
    """
    for row in summary["searches"]:
        if row["ended"] == "failed":
            reason, count = next(iter(row["failures"].items()))
            raise RunFailed(
                f"no candidate of {row['name']} could be scored: {reason} ({count} of "
                f"{row['evaluations']}); to search anew, remove the run directory"
            )


def run(config: SearchConfig) -> None:
    """Search, print a row for each search, and run the train-offs that are to follow.

    Raises:
        UserError: bad input, before anything is written.
        RunFailed: a search in which no candidate could be scored.
    """
    from rich.table import Table

    from evo.commands.search.driver import search
    from evo.console import result_console

    train_offs = None
    if config.select is not None:
        from evo.commands.search.train_offs import read_train_offs, run_train_offs

        train_offs = read_train_offs(config, config.select)
    summary = search(config)
    table = Table(title=str(config.out))
    for column in ("search", "winner", "parameters", "nll", "perplexity", "evaluations", "ended"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for row in summary["searches"]:
        scored = row["candidate"] is not None
        table.add_row(
            row["name"],
            row["candidate"] or "none: every candidate failed",
            f"{row['params']:,}" if scored else "",
            f"{row['nll']:.4f}" if row["nll"] is not None else "",
            f"{row['perplexity']:.2f}" if row["perplexity"] is not None else "",
            str(row["evaluations"]),
            row["ended"],
        )
    result_console().print(table)
    for row in summary["searches"]:
        if row.get("failures"):  # summaries of before they were counted have none
            counted = ", ".join(f"{count} x {reason}" for reason, count in row["failures"].items())
            result_console().print(f"{row['name']}: candidates failed: {counted}", markup=False)
    check(summary)
    if train_offs is not None:
        run_train_offs(train_offs, summary)
