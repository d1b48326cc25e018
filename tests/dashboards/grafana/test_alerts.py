"""Each alert, on series that raise it and on series that do not, by Prometheus' own test tool."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards.grafana.alerts import ALERTS
from dashboards.grafana.files import ALERTS as FILE
from dashboards.grafana.files import COMMITTED
from tests.support.prometheus import program

pytestmark = pytest.mark.slow

RUN = {"run": "r"}
SEARCH = {"run": "r", "space": "fine-uniform", "bin": "25%"}
BY_NAME = {alert.name: alert for alert in ALERTS}

WANTED = {'ray_evo_pool_workers_wanted{run="r",WorkerId="a"}': "2x90"}
IN_SEARCH = '{run="r",space="fine-uniform",bin="25%",WorkerId="a"}'

RAISED = {
    "units stopped to come": (
        "EvoSearchStalled", RUN,
        WANTED | {'ray_evo_pool_units_total{run="r",WorkerId="a"}': "0+5x30 150x60"},
        "60m", "Run r has scored nothing for 10m",
    ),
    "no unit has ever come": (
        "EvoSearchStalled", RUN, WANTED, "30m", "Run r has scored nothing for 10m",
    ),
    "two of three workers do not start": (
        "EvoSearchWithoutWorkers", RUN,
        {
            'ray_evo_pool_workers_wanted{run="r",WorkerId="a"}': "3x60",
            'ray_evo_pool_workers_alive{run="r",WorkerId="a"}': "1x60",
        },
        "20m", "Run r lacks 2 workers",
    ),
    "thirty generations without a better best": (
        "EvoSearchPlateaued", SEARCH,
        {
            f"ray_evo_search_generation{IN_SEARCH}": "1+1x60",
            f"ray_evo_search_improved_generation{IN_SEARCH}": "0+1x9 9x60",
        },
        "39m", "fine-uniform@25% of run r: no better candidate for 30 generations",
    ),
    "failures from the first sample of their counter on": (
        "EvoSearchFailing", SEARCH,
        {
            f"ray_evo_search_generation{IN_SEARCH}": "1+1x60",
            f"ray_evo_search_evaluations_total{IN_SEARCH}": "40x60",
            f"ray_evo_search_failed_total{IN_SEARCH}": "_x9 8x60",
        },
        "20m", "fine-uniform@25% of run r: 20% of its candidates have failed",
    ),
    "three workers lost at once, the counter's first sample": (
        "EvoWorkersLost", RUN,
        WANTED | {'ray_evo_pool_worker_restarts_total{run="r",WorkerId="a"}': "_x39 3x50"},
        "45m", "Run r has lost 3 workers in 30m",
    ),
    "an update was left out": (
        "EvoPretrainNotFinite", RUN,
        {
            'ray_evo_pretrain_step{run="r",WorkerId="a"}': "1+1x60",
            'ray_evo_pretrain_skipped{run="r",WorkerId="a"}': "_x19 2x40",
        },
        "25m", "Run r has left out 2 updates that were not finite",
    ),
    "no step is taken any more": (
        "EvoPretrainStalled", RUN,
        {'ray_evo_pretrain_step{run="r",WorkerId="a"}': "1+1x20 21x60"},
        "60m", "Run r has taken no step for 30m",
    ),
}  # fmt: skip

QUIET = {
    "a search that goes on": (
        WANTED
        | {
            'ray_evo_pool_workers_alive{run="r",WorkerId="a"}': "2x90",
            'ray_evo_pool_units_total{run="r",WorkerId="a"}': "0+5x90",
            f"ray_evo_search_generation{IN_SEARCH}": "1+1x90",
            f"ray_evo_search_improved_generation{IN_SEARCH}": "0+1x90",
            f"ray_evo_search_evaluations_total{IN_SEARCH}": "40+40x90",
            f"ray_evo_search_failed_total{IN_SEARCH}": "1x90",
        }
    ),
    "one that has ended: its gauges are gone": {
        'ray_evo_pool_workers_wanted{run="r",WorkerId="a"}': "2x10 stale",
        'ray_evo_pool_workers_alive{run="r",WorkerId="a"}': "2x10 stale",
        'ray_evo_pool_units_total{run="r",WorkerId="a"}': "0+5x10 50x80",
    },
    "one that went on in another process": {
        'ray_evo_pool_workers_wanted{run="r",WorkerId="a"}': "2x40 stale",
        'ray_evo_pool_workers_wanted{run="r",WorkerId="b"}': "_x41 2x49",
        'ray_evo_pool_workers_alive{run="r",WorkerId="a"}': "2x40 stale",
        'ray_evo_pool_workers_alive{run="r",WorkerId="b"}': "_x41 2x49",
        'ray_evo_pool_units_total{run="r",WorkerId="a"}': "0+50x40 stale",
        'ray_evo_pool_units_total{run="r",WorkerId="b"}': "_x41 0+5x49",
        'ray_evo_pool_worker_restarts_total{run="r",WorkerId="a"}': "2x40 stale",
    },
    "a pretraining that goes on": {
        'ray_evo_pretrain_step{run="r",WorkerId="a"}': "1+1x90",
        'ray_evo_pretrain_skipped{run="r",WorkerId="a"}': "2x90",
        'ray_evo_pretrain_loss{run="r",WorkerId="a"}': "3x90",
    },
}


def promtool(tmp_path: Path, series: dict[str, str], expected: list[dict]) -> str:
    """What is wrong; empty if nothing is."""
    test = {
        "rule_files": [str(COMMITTED / FILE)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": values} for name, values in series.items()
                ],
                "alert_rule_test": expected,
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(test))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(path)], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_alert_is_raised_by_one_of_the_cases() -> None:
    assert {case[0] for case in RAISED.values()} == set(BY_NAME)


@pytest.mark.parametrize("case", RAISED.values(), ids=RAISED)
def test_it_is_raised_and_says_what_for(case: tuple, tmp_path: Path) -> None:
    name, labels, series, when, summary = case
    alert = BY_NAME[name]
    raised = {
        "exp_labels": labels | {"severity": alert.severity},
        "exp_annotations": {"summary": summary, "description": alert.description},
    }
    expected = [{"eval_time": when, "alertname": name, "exp_alerts": [raised]}]
    assert promtool(tmp_path, series, expected) == ""


@pytest.mark.parametrize("series", QUIET.values(), ids=QUIET)
def test_none_is_raised(series: dict[str, str], tmp_path: Path) -> None:
    expected = [
        {"eval_time": f"{minute}m", "alertname": alert.name, "exp_alerts": []}
        for alert in ALERTS
        for minute in range(17, 90, 3)  # from when a rule's window is full
    ]
    assert promtool(tmp_path, series, expected) == ""
