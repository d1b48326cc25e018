"""`evo dashboards`: what an operator gives Grafana and Prometheus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DashboardsConfig:
    """Grafana's dashboards of searches, pools and pretraining runs, and Prometheus' alert rules.

    Attributes:
        out: directory for the files. Where RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR names the same
            for `ray start --head`, Grafana finds them beside Ray's own.
    """

    out: Path


def run(config: DashboardsConfig) -> None:
    """Write the files, and print where they are."""
    from dashboards.grafana.files import copy_to

    for path in copy_to(config.out):
        print(path)
