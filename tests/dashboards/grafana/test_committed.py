"""What is committed is what the code builds, shows every metric, and reaches a directory whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from dashboards.grafana.alerts import ALERTS
from dashboards.grafana.build import DASHBOARDS, files
from dashboards.grafana.files import COMMITTED, copy_to
from dashboards.grafana.panels import WIDTH
from evo import metrics
from evo.cli import main

EVERY = (*metrics.SEARCH, *metrics.POOL, *metrics.PRETRAIN)


def expressions(dashboard: dict) -> list[str]:
    """All queries of a dashboard's JSON."""
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_the_files_are_those_that_the_code_builds() -> None:
    committed = {path.name: path.read_text() for path in COMMITTED.iterdir()}
    assert committed == files(), "run `python -m dashboards.grafana.build`"


def test_every_metric_is_shown_and_nothing_else_is_asked_for() -> None:
    dashboards = [json.loads((COMMITTED / f"{each.uid}.json").read_text()) for each in DASHBOARDS]
    shown = " ".join(query for dashboard in dashboards for query in expressions(dashboard))
    alerts = " ".join(alert.expression for alert in ALERTS)
    asked = set(re.findall(r"ray_evo_\w+", f"{shown} {alerts}"))
    assert asked <= {metric.series for metric in EVERY}
    shown_names = set(re.findall(r"ray_evo_\w+", shown))
    assert {metric.series for metric in EVERY} - shown_names == set()


@pytest.mark.parametrize("built", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_a_dashboards_json_has_what_was_built(built) -> None:
    dashboard = json.loads((COMMITTED / f"{built.uid}.json").read_text())
    assert dashboard["uid"] == built.uid
    names = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert names == ["datasource", *built.variables]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in panels] == [panel.title for panel in built.panels]
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= WIDTH
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
    for one in panels:
        for other in panels:
            assert one is other or not overlap(one["gridPos"], other["gridPos"])


def overlap(one: dict, other: dict) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_the_dashboards_link_to_each_other_and_to_rays() -> None:
    for each in DASHBOARDS:
        links = json.loads((COMMITTED / f"{each.uid}.json").read_text())["links"]
        assert [link["title"] for link in links] == ["evo", "Ray"]
        assert links[0]["tags"] == ["evo"]


def test_the_command_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "directory"
    assert main(["dashboards", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(path) for path in sorted(out.iterdir())]
    assert {path.name: path.read_text() for path in out.iterdir()} == files()
    assert yaml.safe_load((out / "evo-alerts.yaml").read_text())["groups"][0]["name"] == "evo"
    copy_to(out)  # again, over what is there
    assert len(list(out.iterdir())) == 4


def test_a_file_in_the_directorys_place_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["dashboards", "--out", str(tmp_path / "file")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
