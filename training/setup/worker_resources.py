"""The resources of a run's workers: the cores that they take, and whether there is room."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor

import ray
import torch

from evo.errors import UserError
from evo.ray_connection import connect

Resources = dict[str, float]
"""Amounts by Ray's names for them."""

SHARES = 10_000
"""Ray counts resources in this fraction of a unit."""

PATIENCE_SECONDS = 60.0
"""After this time a user is told that there is no room."""


@dataclass(frozen=True)
class WorkerResources:
    """The resources of a run's workers.

    Attributes:
        count: number of workers.
        cpus: cores that Ray reserves for each worker.
        gpus: share of a GPU for each worker, 0 for the CPU.
    """

    count: int
    cpus: float
    gpus: float

    @property
    def resources(self) -> Resources:
        """The resources that Ray reserves for each worker."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    @property
    def threads(self) -> int:
        """Threads of each worker on the CPU: as many as it has cores."""
        return max(1, int(self.cpus))

    def room(self) -> int:
        """The number of such workers for which living nodes have room, other work aside."""
        return sum(_fits(node, self.resources) for node in living_nodes())

    def memory(self) -> int:
        """Bytes for each worker: its share of a GPU, or of the memory that Ray counts in all."""
        if self.gpus:
            # A sweep's trial, where Ray would run the task by default, has no GPU; its workers do.
            remote = ray.remote(num_cpus=0, num_gpus=self.gpus, scheduling_strategy="DEFAULT")
            total = remote(_gpu_memory).remote()
            if not ray.wait([total], timeout=PATIENCE_SECONDS)[0]:
                say_waiting(self)
            return int(self.gpus * ray.get(total))
        return int(ray.cluster_resources()["memory"] / self.count)


def workers_and_gpus(workers: int | None, share: float | None) -> tuple[int, float]:
    """The number of workers, and the share of a GPU that each of them has.

    Args:
        workers: number of workers that the user asks for; by default one per GPU, or one.
        share: share of a GPU that the user asks for each; by default 1 where there are GPUs.

    Raises:
        UserError: the workers need more GPUs than there are.
    """
    gpus = 0.0 if share == 0 else _available_gpus()
    if share is None:
        share = 1.0 if gpus else 0.0
    if share == 0:
        return workers or 1, 0.0
    workers = workers or max(1, int(gpus / share))
    if workers * share > gpus + 1e-9:
        raise UserError(
            f"{workers} workers with {share:g} GPUs each need more than the {gpus:g} "
            "GPUs there are: give fewer --workers or a smaller --gpus-per-worker"
        )
    return workers, share


def _available_gpus() -> float:
    """GPUs of the cluster, or of this machine where Ray is not running yet."""
    if ray.is_initialized() or os.environ.get("RAY_ADDRESS"):
        connect()
        return float(ray.cluster_resources().get("GPU", 0.0))
    return float(torch.cuda.device_count())


def allocate_workers(
    count: int, gpus: float, threads: int | None, nodes: Sequence[Resources]
) -> WorkerResources:
    """Give each worker as many cores as the cluster's nodes have for all of them.

    Args:
        count: number of workers.
        gpus: share of a GPU for each worker; with a GPU it takes a core at most.
        threads: threads of each worker on the CPU, which takes no more cores than that; by default
            as many as it gets.
        nodes: resources of the nodes, see `living_nodes`.
    """
    most = 1.0 if gpus else float(threads or SHARES)
    cores = [node.get("CPU", 0.0) for node in nodes]
    shares = {min(most, has / part) for has in cores for part in range(1, count + 1) if has}
    for share in sorted(shares, reverse=True):
        whole = float(floor(share)) if share >= 1 else floor(share * SHARES) / SHARES
        workers = WorkerResources(count, whole, gpus)
        if whole and sum(_fits(node, workers.resources) for node in nodes) >= count:
            return workers
    return WorkerResources(count, min(1.0, most), gpus)  # nodes may still come


def say_waiting(workers: WorkerResources) -> bool:
    """Tell the user that workers wait for room; return True."""
    asked = " and ".join(f"{part:g} {kind}" for kind, part in workers.resources.items())
    print(
        f"waiting until the cluster has room for {workers.count} workers with {asked} each",
        flush=True,
    )
    return True


def living_nodes() -> list[Resources]:
    """The resources of each living node of the cluster, whether or not they are in use."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fits(node: Resources, resources: Resources) -> int:
    """The number of workers for which a node has room."""
    return int(min(node.get(kind, 0.0) / part + 1e-9 for kind, part in resources.items()))


def _gpu_memory() -> int:
    return torch.cuda.get_device_properties(0).total_memory
