"""`evo report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReportConfig:
    """One HTML page of a search's curves and the population's shapes, with its pictures.

    Attributes:
        run: run directory of `evo search`; may still be running.
        out: directory for the page and the pictures; by default RUN/report.
    """

    run: Path
    out: Path | None = None


def run(config: ReportConfig) -> None:
    """Write the page and its pictures, and print where the page is."""
    from dashboards.report import report

    print(report(config.run, config.out or config.run / "report"))
