"""`evo compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CompareConfig:
    """At what fraction of its FLOPs each run reaches the baseline's final perplexity.

    Attributes:
        runs: run directories of `evo pretrain`.
        baseline: one of them; by default the first.
        out: directory for the table as JSON and the picture; by default none is written.
    """

    runs: list[Path]
    baseline: Path | None = None
    out: Path | None = None


def run(config: CompareConfig) -> None:
    """Print the table, and write it and its picture where `--out` says."""
    from evo.console import result_console
    from training.comparison.compare import compare, table

    comparison = compare(config.runs, baseline=config.baseline, out=config.out)
    result_console().print(table(comparison.baseline, comparison.groups))
    if config.out is not None:
        from dashboards.training_curves import draw_groups

        draw_groups(comparison.groups, comparison.baseline, config.out / "comparison.png")
