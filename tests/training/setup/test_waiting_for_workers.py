"""A cluster that has no room for all of a run's workers: later, or at first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from evo.errors import UserError
from tests.support import tiny_checkpoints
from tests.support.alone import job_of
from tests.support.rays import own_ray
from training.config import PretrainConfig
from training.logs import log
from training.pretrain import pretrain
from training.setup.launch import _work

pytestmark = pytest.mark.ray


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    with own_ray(address=cluster.address, include_dashboard=None):
        yield cluster
    cluster.shutdown()


def config_of(root: Path, workers: int) -> PretrainConfig:
    return PretrainConfig(
        model=tiny_checkpoints.neox(root / "model"),
        text=tiny_checkpoints.text(root / "text.npy"),
        tokens=60 * 4 * 17,
        out=root / "run",
        batch_tokens=4 * 17,
        learning_rate=1e-3,
        checkpoint_every=4,
        workers=workers,
        threads=1,
        gpus_per_worker=0,
    )


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in log.rows(run)[1:]]


def test_a_run_goes_on_with_the_workers_for_which_there_is_room(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = cluster.add_node(num_cpus=1)
    config = config_of(tmp_path, workers=2)

    def remove_when_logged(step: int) -> None:
        while not (rows := log.rows(config.out)) or rows[-1]["step"] < step:
            time.sleep(0.005)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=remove_when_logged, args=(10,), daemon=True)
    thread.start()
    pretrain(config)
    assert not thread.is_alive()
    assert "going on with 1 of 2 workers" in capsys.readouterr().out
    pretrain(replace(config, out=tmp_path / "one", workers=1))
    assert losses(config.out) == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def test_a_run_waits_for_room_and_says_so(
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody else has the only core, until the run has said that it waits."""
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")

    @ray.remote(num_cpus=1)
    class Other:
        pass

    other = Other.remote()
    told: list[str] = []

    def leave_when_told() -> None:
        while not (said := capsys.readouterr().out):
            time.sleep(0.1)
        told.append(said)
        ray.kill(other)

    thread = threading.Thread(target=leave_when_told, daemon=True)
    thread.start()
    config = config_of(tmp_path, workers=1)
    assert len(losses(config.out)) == 0
    summary = pretrain(config)
    assert told == ["waiting until the cluster has room for 1 workers with 1 CPU each\n"]
    assert summary["steps"] == 60


def test_a_run_directory_that_a_node_does_not_see(tmp_path: Path) -> None:
    job = job_of(
        tmp_path / "run",
        tiny_checkpoints.neox(tmp_path / "model"),
        np.load(tiny_checkpoints.text(tmp_path / "text.npy")),
    )
    with pytest.raises(UserError, match=r"is not there on .* all nodes share"):
        _work(job)
    assert list(job.run.iterdir()) == []
