"""A cluster that has no room for all of a run's workers: at first, or later."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.support import tiny_checkpoints
from tests.support.alone import launch_here
from tests.support.rays import own_ray
from training.config import PretrainConfig
from training.logs import log
from training.pretrain import pretrain

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    with own_ray(address=cluster.address, include_dashboard=None):
        yield cluster
    cluster.shutdown()


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in log.rows(run)[1:]]


@pytest.mark.slow
def test_a_run_waits_for_room_and_goes_on_with_the_workers_for_which_there_is_some(
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else has one of two cores until the run has said that it waits; later, the other
    one leaves with its node."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    monkeypatch.setattr("training.setup.launch.NOTICE_SECONDS", 2.0)
    config = PretrainConfig(
        model=tiny_checkpoints.neox(tmp_path / "model"),
        text=tiny_checkpoints.text(tmp_path / "text.npy"),
        tokens=60 * 4 * 17,
        out=tmp_path / "run",
        batch_tokens=4 * 17,
        learning_rate=1e-3,
        checkpoint_every=4,
        workers=2,
        threads=1,
        gpus_per_worker=0,
        loggers=[],
    )
    node = cluster.add_node(num_cpus=1, resources={"leaving": 1})

    @ray.remote(num_cpus=1)
    class Other:
        def is_there(self) -> bool:
            return True

    other = Other.options(resources={"leaving": 1}).remote()
    assert ray.get(other.is_there.remote())
    printed: list[str] = []

    def leave_when_it_waits_and_remove_the_node_when_it_trains() -> None:
        while not (waiting := capsys.readouterr().out):
            time.sleep(0.1)
        printed.append(waiting)
        assert not log.rows(config.out)
        ray.kill(other)
        while log.last_step(config.out) < 10:
            time.sleep(0.005)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(
        target=leave_when_it_waits_and_remove_the_node_when_it_trains, daemon=True
    )
    thread.start()
    summary = pretrain(config)
    assert not thread.is_alive()
    assert printed == ["waiting until the cluster has room for 2 workers with 1 CPU each\n"]
    assert "going on with 1 of 2 workers" in capsys.readouterr().out
    assert summary["steps"] == 60
    one = replace(config, out=tmp_path / "one", workers=1)
    pretrain(one, launch=launch_here)
    assert losses(config.out) == pytest.approx(losses(one.out), rel=1e-5)
