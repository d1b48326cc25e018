"""A node that leaves the cluster while a run has a worker on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests import tiny_checkpoints
from training import log
from training.pretrain import PretrainConfig, pretrain


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in log.rows(run)[1:]]


def test_a_run_goes_on_with_the_workers_for_which_there_is_room(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = cluster.add_node(num_cpus=1)
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
    )

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
