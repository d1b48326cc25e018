"""`evo search`: run the searches, and print the table of their winners."""

from __future__ import annotations

from evo.commands.search.config import SearchConfig


def run(config: SearchConfig) -> None:
    """Search, print a row for each search, and run the train-offs that are to follow."""
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
    if train_offs is not None:
        run_train_offs(train_offs, summary)
