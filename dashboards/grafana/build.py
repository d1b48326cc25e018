"""Write `committed/` anew: `python -m dashboards.grafana.build`."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.grafana.alerts import rules
from dashboards.grafana.files import ALERTS, COMMITTED
from dashboards.grafana.panels import build
from dashboards.grafana.pool import POOL
from dashboards.grafana.pretraining import PRETRAINING
from dashboards.grafana.search import SEARCH

DASHBOARDS = (SEARCH, POOL, PRETRAINING)


def files() -> dict[str, str]:
    """What stands in each file, by its name."""
    found = {
        f"{dashboard.uid}.json": JSONEncoder(sort_keys=True, indent=1).encode(build(dashboard))
        for dashboard in DASHBOARDS
    }
    # Grafana numbers what has no number, so that a dashboard read back would differ from its file.
    assert all("id" not in json.loads(text) for text in found.values())
    found[ALERTS] = yaml.safe_dump(rules(), sort_keys=False, width=1000)
    return {name: text.rstrip("\n") + "\n" for name, text in found.items()}


def write(directory: Path = COMMITTED) -> None:
    """Write them."""
    directory.mkdir(exist_ok=True)
    for name, text in files().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    write()
