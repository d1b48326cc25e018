"""A real search and a real pretraining under a real Prometheus: every panel has data."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import ray

from dashboards.grafana.alerts import ALERTS
from dashboards.grafana.build import DASHBOARDS, files
from dashboards.grafana.files import copy_to
from dashboards.grafana.panels import Query
from dashboards.grafana.queries import SEARCHES
from evo import metrics
from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import search
from tests.support import tiny_checkpoints
from tests.support.alone import launch_here
from tests.support.endpoint import FAST
from tests.support.heads import free_port, wait_until
from tests.support.panel_pictures import picture
from tests.support.prometheus import Prometheus, running_prometheus, without_variables
from tests.support.rays import own_ray
from training.config import PretrainConfig
from training.pretrain import pretrain

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

LENGTH = 40
PROVISIONING = "RAY_METRICS_GRAFANA_DASHBOARD_OUTPUT_DIR"


@dataclass(frozen=True)
class Scene:
    """What has run, and who has watched it.

    Attributes:
        prometheus: the server.
        began: when it all began, seconds since the epoch.
        dashboards: the directory in which Ray, too, has written its dashboards.
        run: the search's directory.
    """

    prometheus: Prometheus
    began: float
    dashboards: Path
    run: Path

    def series(self, query: str) -> list[dict]:
        return self.prometheus.range(without_variables(query), time.time() - self.began)


@pytest.fixture(scope="module")
def scene(
    tmp_path_factory: pytest.TempPathFactory, teacher: Callable[[str], Path]
) -> Iterator[Scene]:
    root = tmp_path_factory.mktemp("scene")
    copy_to(root / "dashboards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROVISIONING, str(root / "dashboards"))
        with own_ray(
            num_cpus=2, include_dashboard=True, dashboard_port=free_port(), _system_config=FAST
        ):
            node = ray.nodes()[0]
            target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
            rules = root / "dashboards" / "evo-alerts.yaml"
            with running_prometheus(root, target, rules) as prometheus:
                began = time.time()
                _search(root, teacher("llama-tied"))
                _pretrain(root)
                yield Scene(prometheus, began, root / "dashboards", root / "run")


def _search(root: Path, teacher: Path) -> None:
    np.save(root / "tokens.npy", np.random.default_rng(0).integers(0, 112, 400 * LENGTH))
    config = SearchConfig(
        teacher=teacher, text=str(root / "tokens.npy"), bins=["40%", "60%"],
        spaces=["fine-layerwise"], out=root / "run", population=8, generations=12,
        sequence_length=LENGTH, max_tokens=300 * LENGTH, shard_tokens=16 * LENGTH, workers=2,
        score_cache=False, rungs=["1/8"],
    )  # fmt: skip
    search(config)


def _pretrain(root: Path) -> None:
    config = PretrainConfig(
        model=tiny_checkpoints.neox(root / "model"), text=tiny_checkpoints.text(root / "text.npy"),
        validation_text=tiny_checkpoints.text(root / "held-out.npy", blocks=4, seed=1),
        tokens=2000 * 6 * 17, batch_tokens=6 * 17, sequence_length=17, out=root / "pretrained",
        validate_every=100, checkpoint_every=200, threads=1,
    )  # fmt: skip
    pretrain(config, launch=launch_here)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(query, id=f"{dashboard.uid}-{panel.title}-{place}")
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for place, query in enumerate(panel.queries)
    ],
)
def test_every_query_has_data(scene: Scene, query: Query) -> None:
    assert scene.series(query.expression)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_what_an_alert_looks_at_has_data(scene: Scene, alert) -> None:
    assert scene.series(alert.measured)


def test_prometheus_has_read_the_alerts(scene: Scene) -> None:
    rules = scene.prometheus.rules()
    assert [rule["name"] for rule in rules] == [alert.name for alert in ALERTS]
    assert {rule["health"] for rule in rules} == {"ok"}
    assert not any(rule["state"] == "firing" for rule in rules)


def test_totals_are_the_historys(scene: Scene) -> None:
    histories = {
        path.parent.name.partition("@")[2]: pd.read_parquet(path)
        for path in scene.run.glob("searches/*/history.parquet")
    }
    assert len(histories) == 2

    def shown(metric: metrics.Metric) -> dict[str, float]:
        return scene.prometheus.now(without_variables(SEARCHES.total(metric)))

    tokens = {bin: float(history["tokens"].sum()) for bin, history in histories.items()}
    wait_until(lambda: shown(metrics.SCORED_TOKENS) == tokens, 30, lambda: str(tokens))
    assert shown(metrics.EVALUATIONS) == {bin: len(frame) for bin, frame in histories.items()}
    for bin, history in histories.items():
        full = history[history["status"] == "full"]
        query = without_variables(SEARCHES.value(metrics.BEST)).replace('bin=~".*"', f'bin="{bin}"')
        (series,) = scene.series(query)
        assert float(series["values"][-1][1]) == pytest.approx(full["fitness"].min(), rel=1e-12)


def test_rungs_and_operators_are_the_historys(scene: Scene) -> None:
    for path in scene.run.glob("searches/*/history.parquet"):
        history, bin = pd.read_parquet(path), path.parent.name.partition("@")[2]
        query = without_variables(SEARCHES.total(metrics.SCREENED))
        assert scene.prometheus.now(query)[bin] == (history["status"] == "screened").sum()


def test_our_dashboards_survive_rays_start(scene: Scene) -> None:
    found = {path.name: path for path in scene.dashboards.iterdir()}
    assert {name: found[name].read_text() for name in files()} == files()
    rays = found.keys() - files().keys()
    assert any(json.loads(found[name].read_text())["uid"] == "rayDefaultDashboard" for name in rays)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_the_panels_can_be_drawn(scene: Scene, dashboard, tmp_path: Path) -> None:
    out = Path(os.environ.get("EVO_PICTURES", tmp_path)) / f"{dashboard.uid}.png"
    drawn = picture(dashboard, scene.series, out)
    assert drawn == {panel.title for panel in dashboard.panels}
    assert plt.imread(out).std() > 0
