import logging
import time

import numpy as np
import pytest
import ray
from ray.cluster_utils import Cluster

from evo.errors import UserError
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from tests.support.families import random_tokens
from tests.support.rays import own_ray
from workers.pool.pool import Pool
from workers.pool.queues import Unit
from workers.pool.stored_teacher import store_teacher
from workers.pool.worker_group import LOOK_INTERVAL
from workers.settings import PoolSettings, ScoringSettings

BLOCKS = random_tokens(8, 60)

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    with own_ray(address=cluster.address, include_dashboard=None):
        yield cluster
    cluster.shutdown()


@pytest.fixture
def stored(teacher, cluster):
    return store_teacher(checkpoint.load(teacher("neox")))


@pytest.fixture
def units(teacher):
    full = Subnet.full(checkpoint.load(teacher("neox")).architecture.dimensions)
    return [Unit("a", full.id, full.pack(), shard, shard, shard + 1) for shard in range(8)]


def drain(pool, seconds=250.0):
    results = []
    deadline = time.monotonic() + seconds
    while pool.pending():
        assert time.monotonic() < deadline
        results += pool.wait(5)
    return results


def test_takes_what_there_is_and_grows_when_more_joins(stored, cluster, units, caplog):
    caplog.set_level(logging.WARNING, "evo.pool")
    settings = PoolSettings(workers=2)
    with Pool(stored, BLOCKS, ScoringSettings(), settings) as pool:
        pool.submit(units)
        expected = {unit.shard: score.nll for unit, score in drain(pool)}
        assert pool.workers == 1
        pool.wait(0)
        messages = [record.getMessage() for record in caplog.records]
        assert messages == ["asked for 2 workers, 1 are running, waiting for resources"]

        node = cluster.add_node(num_cpus=1)
        deadline = time.monotonic() + 60
        while pool.workers < 2:
            assert time.monotonic() < deadline
            pool.submit(units)
            assert {unit.shard: score.nll for unit, score in drain(pool)} == expected

        pool.submit(units)
        cluster.remove_node(node)
        assert {unit.shard: score.nll for unit, score in drain(pool)} == expected
        assert pool.workers >= 1


@ray.remote(num_cpus=1, resources={"other": 1})
class Other:
    """Somebody else's."""

    def is_there(self) -> None:
        pass


@pytest.mark.slow
def test_as_many_workers_as_there_is_room_for_while_nodes_come_and_go(
    stored, cluster, units, caplog
):
    caplog.set_level(logging.WARNING, "evo.pool")
    node = cluster.add_node(num_cpus=2, resources={"other": 1})
    other = Other.remote()
    ray.get(other.is_there.remote())
    with Pool(stored, BLOCKS, ScoringSettings(), PoolSettings()) as pool:

        def scored_with(workers):
            """What the units score while the pool comes to have so many workers."""
            deadline = time.monotonic() + 120
            while True:
                pool.submit(units)
                scores = {unit.shard: score.nll for unit, score in drain(pool)}
                if pool.workers == workers:
                    return scores
                assert time.monotonic() < deadline
                time.sleep(0.5)

        expected = scored_with(2)
        time.sleep(2 * LOOK_INTERVAL)
        assert scored_with(2) == expected  # what is not free is not asked for
        assert len(pool._group.workers) == 2
        pool.submit(units)
        cluster.remove_node(node)
        assert scored_with(1) == expected
        cluster.add_node(num_cpus=2)
        assert scored_with(3) == expected
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith("1 workers died with ")


def test_gives_up_when_no_worker_can_start(stored, cluster):
    settings = PoolSettings(workers=3, start_timeout=3)
    with Pool(stored, BLOCKS, ScoringSettings(threads=64), settings) as pool:
        pool.submit([Unit("a", "x", b"", 0, 0, 1)])
        with pytest.raises(UserError) as caught:
            drain(pool)
    assert "asked for 3 with 64 CPUs and 0 GPUs each, the cluster has " in str(caught.value)


@pytest.mark.parametrize(
    "settings", [{"workers": 0}, {"gpus_per_worker": -1}, {"start_timeout": 0}], ids=str
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(UserError):
        PoolSettings(**settings)


def test_cuda_and_gpus_go_together(stored, cluster):
    blocks = np.zeros((1, 8), np.int32)
    for scoring, settings in (
        (ScoringSettings(device="cuda"), PoolSettings()),
        (ScoringSettings(), PoolSettings(gpus_per_worker=0.5)),
    ):
        with pytest.raises(UserError, match="do not fit together"):
            Pool(stored, blocks, scoring, settings)
