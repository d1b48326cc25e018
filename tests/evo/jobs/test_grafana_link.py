from __future__ import annotations

import pytest

from dashboards.grafana.build import DASHBOARDS as BUILT
from evo.jobs.grafana_link import DASHBOARDS, grafana_link

GRAFANA = {"RAY_GRAFANA_HOST": "http://grafana:3000/"}


@pytest.mark.parametrize(
    ("command", "out", "environment", "link"),
    [
        ("search", "/shared/runs/study", GRAFANA,
         "http://grafana:3000/d/evo-search?var-run=study"),
        ("pretrain", "/shared/runs/a b", GRAFANA,
         "http://grafana:3000/d/evo-pretraining?var-run=a+b"),
        ("sweep", "/shared/runs/sweep", GRAFANA, "http://grafana:3000/d/evo-pretraining"),
        ("search", "/r", GRAFANA | {"RAY_GRAFANA_IFRAME_HOST": "https://out"},
         "https://out/d/evo-search?var-run=r"),
        ("prepare", "/shared/corpus", GRAFANA, None),
        ("search", "/shared/runs/study", {}, None),
        ("search", "/shared/runs/study", {"RAY_GRAFANA_HOST": "DISABLED"}, None),
    ],
)  # fmt: skip
def test_the_address_is_that_of_the_runs_dashboard(
    command: str, out: str, environment: dict[str, str], link: str | None
) -> None:
    assert grafana_link(command, out, environment) == link


def test_the_dashboards_exist() -> None:
    assert set(DASHBOARDS.values()) <= {dashboard.uid for dashboard in BUILT}
