from __future__ import annotations

import pytest

from training.setup.worker_resources import WorkerResources, allocate_workers


@pytest.mark.parametrize(
    ("count", "gpus", "threads", "nodes", "cpus"),
    [
        (1, 0.0, None, [{"CPU": 2.0}], 2.0),
        (2, 0.0, None, [{"CPU": 2.0}], 1.0),
        (3, 0.0, None, [{"CPU": 2.0}], 0.6666),
        (5, 0.0, None, [{"CPU": 2.0}, {"CPU": 2.0}], 0.6666),  # in equal shares there is room for 4
        (7, 0.0, None, [{"CPU": 2.0}, {"CPU": 2.0}], 0.5),
        (4, 0.0, None, [{"CPU": 32.0}] * 4, 32.0),
        (5, 0.0, None, [{"CPU": 32.0}] * 4, 16.0),
        (4, 0.0, 8, [{"CPU": 32.0}] * 4, 8.0),
        (2, 0.0, 4, [{"CPU": 2.0}], 1.0),
        (3, 0.0, None, [{"CPU": 7.0}, {"CPU": 3.0}], 3.0),
        (8, 1.0, None, [{"CPU": 64.0, "GPU": 8.0}], 1.0),
        (8, 1.0, None, [{"CPU": 4.0, "GPU": 8.0}], 0.5),
        (4, 0.25, None, [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}], 0.5),
        (2, 1.0, None, [{"CPU": 4.0, "GPU": 1.0}], 1.0),  # a node may still come
        (2, 0.0, None, [], 1.0),
    ],
)
def test_workers_take_all_the_cores_that_there_are_for_each(
    count: int, gpus: float, threads: int | None, nodes: list[dict[str, float]], cpus: float
) -> None:
    assert allocate_workers(count, gpus, threads, nodes) == WorkerResources(count, cpus, gpus)


def test_a_thread_for_each_core() -> None:
    assert [WorkerResources(1, cpus, 0.0).threads for cpus in (0.5, 1.0, 32.0)] == [1, 1, 32]
