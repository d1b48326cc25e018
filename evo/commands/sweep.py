"""`evo sweep`."""

from __future__ import annotations

from training.sweep.sweep import SweepConfig, sweep


def run(config: SweepConfig) -> None:
    """Run the trials; the table and the picture are part of the sweep."""
    sweep(config)
