from __future__ import annotations

from pathlib import Path

import pytest
import ray

from tests.support.endpoint import FAST, wait_for
from tests.support.rays import own_ray
from training.logs.prometheus import Prometheus

ROWS = [
    {"step": 1, "loss": 3.0, "tokens": 68, "data_seconds": 0.5, "validation_perplexity": 20.0},
    {"step": 2, "loss": 2.0, "tokens": 136, "data_seconds": 0.25, "mfu": 0.4},
]


def test_without_ray_there_is_nothing_to_show(tmp_path: Path) -> None:
    if ray.is_initialized():
        pytest.skip("another test's Ray runs")
    watcher = Prometheus(tmp_path / "run")
    watcher.rows(ROWS)
    watcher.close()


@pytest.mark.slow
@pytest.mark.ray
def test_the_last_row_and_the_last_validation_are_shown(tmp_path: Path) -> None:
    series = [
        f"ray_evo_pretrain_{name}"
        for name in ("loss", "validation_perplexity", "step", "tokens", "utilisation",
                     "data_seconds_total")
    ]  # fmt: skip
    wanted = [(name, "") for name in series]
    with own_ray(num_cpus=1, _system_config=FAST):
        watcher = Prometheus(tmp_path / "a-run")
        watcher.rows(ROWS)
        watcher.restart()
        watcher.rows(ROWS)  # as after a resume
        found = wait_for("a-run", lambda found: set(wanted) <= found.keys())
        watcher.close()
    assert [found[each] for each in wanted] == [2.0, 20.0, 2, 136, 0.4, 0.75]
