"""`evo select`."""

from __future__ import annotations

from training.selection.config import SelectConfig


def run(config: SelectConfig) -> None:
    """Run the train-off, draw its picture, print its table and how to go on with the winner."""
    from dashboards.selection_picture import PICTURE, draw_selection
    from evo.console import result_console
    from training.selection.select import select
    from training.selection.summary import table

    outcome = select(config)
    draw_selection(outcome.summary, outcome.out / PICTURE)
    console = result_console()
    console.print(table(outcome.summary))
    print(outcome.summary["continue"])
