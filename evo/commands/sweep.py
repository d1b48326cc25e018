"""`evo sweep`."""

from __future__ import annotations

from training.sweep.config import SweepConfig


def run(config: SweepConfig) -> None:
    """Run the trials, print their table, draw their picture.

    Raises:
        UserError: trials have failed; the table and the picture of the others are there.
    """
    from dashboards.sweep_picture import draw_sweep
    from evo.console import result_console
    from training.sweep.sweep import sweep

    outcome = sweep(config)
    draw_sweep(outcome.results, outcome.settings, config.out / "sweep.png")
    console = result_console()
    console.print(outcome.table)
    if outcome.best is not None:
        console.print(outcome.best, soft_wrap=True)
    outcome.check_failures()
