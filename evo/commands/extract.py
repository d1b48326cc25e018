"""`evo extract`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ExtractConfig:
    """Write a candidate of a search as a standalone checkpoint.

    Attributes:
        run: run directory of `evo search`.
        out: checkpoint directory to make.
        search: which of the run's searches, SPACE@BIN; not needed where there is only one.
        candidate: its id in history.parquet; by default the best.
    """

    run: Path
    out: Path
    search: str | None = None
    candidate: str | None = None


def run(config: ExtractConfig) -> None:
    """Write the checkpoint, and print what it is."""
    from evo.search.winner import extract_candidate

    row = extract_candidate(config.run, config.search, config.candidate, config.out)
    print(
        f"{config.out}: {row.candidate}, {row.params:,} parameters, perplexity {row.perplexity:.2f}"
    )
