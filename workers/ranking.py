"""Rank a teacher's parts on the cluster, where a worker would run; cached by what it depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from evo.checkpoint import load
from evo.importance import order_by_activation, order_by_magnitude
from evo.order import Order
from evo.subnet import Dimensions
from evo.text import cache_directory
from workers.scorer import ScoringSettings
from workers.store import raise_user_error


def rank(
    teacher: Path,
    teacher_hash: str,
    dimensions: Dimensions,
    kind: str,
    blocks: NDArray[np.int32],
    text_hash: str,
    settings: ScoringSettings,
    gpus: float,
) -> Order:
    """The order of a teacher, from the cache or from one worker's time.

    Args:
        teacher: a checkpoint directory that the cluster's nodes see.
        teacher_hash: of its weights.
        dimensions: of the teacher.
        kind: `index`, `magnitude` or `activation`.
        blocks: token ids, shape [N, T]; of use to `activation` only.
        text_hash: of the blocks.
        settings: device, dtype and threads.
        gpus: of the worker.
    """
    if kind == "index":
        return Order.by_index(dimensions)
    text = text_hash if kind == "activation" else "any"
    name = f"{teacher_hash}-{text}-{kind}-{settings.device}-{settings.dtype}.npz"
    cached = cache_directory() / "orders" / name
    if not cached.is_file():
        task = ray.remote(num_cpus=settings.threads, num_gpus=gpus)(_rank)
        try:
            order = ray.get(task.remote(teacher, kind, blocks, settings))
        except ray.exceptions.RayTaskError as error:
            raise_user_error(error)
            raise
        order.save(cached)
    return Order.load(cached)


def _rank(teacher: Path, kind: str, blocks: NDArray[np.int32], settings: ScoringSettings) -> Order:
    torch.set_num_threads(settings.threads)
    model = load(teacher).model(settings.torch_dtype).to(settings.device)
    if kind == "magnitude":
        return order_by_magnitude(model)
    return order_by_activation(model, blocks, settings.micro_batch)
