"""Rank a teacher's parts on the cluster, where a worker would run; cached by what it depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from evo.data.token_blocks import cache_directory
from evo.genome.importance_proxy import Importance
from evo.genome.ranking import Order
from evo.genome.subnet import Dimensions
from evo.model.checkpoint import load
from evo.model.importance import importance_by_activation, importance_by_magnitude
from evo.model.layer_sensitivity import layer_sensitivity
from evo.storage.files import atomic_file
from workers.pool.teacher_store import raise_user_error
from workers.scoring.scorer import torch_dtype
from workers.settings import ScoringSettings

MICRO_BATCH = 8


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
    measured = measure_importance(teacher, teacher_hash, kind, blocks, text_hash, settings, gpus)
    return Order.by_importance(**vars(measured))


def measure_sensitivity(
    teacher: Path,
    teacher_hash: str,
    kind: str,
    order: Order,
    blocks: NDArray[np.int32],
    text_hash: str,
    settings: ScoringSettings,
    gpus: float,
) -> NDArray[np.float64]:
    """What thinning each layer of a teacher costs, from the cache or from one worker's time.

    Args:
        teacher: a checkpoint directory that the cluster's nodes see.
        teacher_hash: of its weights.
        kind: of the order.
        order: by which half of a layer is dropped.
        blocks: token ids, shape [N, T].
        text_hash: of the blocks.
        settings: device, dtype and threads.
        gpus: of the worker.

    Returns:
        Shape [L], see `evo.model.layer_sensitivity.layer_sensitivity`.
    """
    name = f"{teacher_hash}-{text_hash}-{kind}-{settings.device}-{settings.dtype}.npy"
    cached = cache_directory() / "sensitivity" / name
    if not cached.is_file():
        task = ray.remote(num_cpus=0, num_gpus=gpus)(_measure_sensitivity)
        try:
            sensitivity = ray.get(task.remote(teacher, order, blocks, settings))
        except ray.exceptions.RayTaskError as error:
            raise_user_error(error)
            raise
        with atomic_file(cached) as temporary, temporary.open("wb") as file:
            np.save(file, sensitivity)
    return np.load(cached)


def measure_importance(
    teacher: Path,
    teacher_hash: str,
    kind: str,
    blocks: NDArray[np.int32],
    text_hash: str,
    settings: ScoringSettings,
    gpus: float,
) -> Importance:
    """How important a teacher's parts are, from the cache or from one worker's time.

    Args:
        teacher: a checkpoint directory that the cluster's nodes see.
        teacher_hash: of its weights.
        kind: `magnitude` or `activation`.
        blocks: token ids, shape [N, T]; of use to `activation` only.
        text_hash: of the blocks.
        settings: device, dtype and threads.
        gpus: of the worker.
    """
    text = text_hash if kind == "activation" else "any"
    name = f"{teacher_hash}-{text}-{kind}-{settings.device}-{settings.dtype}.npz"
    cached = cache_directory() / "importance" / name
    if not cached.is_file():
        # It asks for no CPU: all may be a named pool's, which lives longer than this search.
        task = ray.remote(num_cpus=0, num_gpus=gpus)(_measure)
        try:
            importance = ray.get(task.remote(teacher, kind, blocks, settings))
        except ray.exceptions.RayTaskError as error:
            raise_user_error(error)
            raise
        importance.save(cached)
    return Importance.load(cached)


def _measure(
    teacher: Path, kind: str, blocks: NDArray[np.int32], settings: ScoringSettings
) -> Importance:
    torch.set_num_threads(settings.threads)
    model = load(teacher).model(torch_dtype(settings)).to(settings.device)
    if kind == "magnitude":
        return importance_by_magnitude(model)
    return importance_by_activation(model, blocks, MICRO_BATCH)


def _measure_sensitivity(
    teacher: Path, order: Order, blocks: NDArray[np.int32], settings: ScoringSettings
) -> NDArray[np.float64]:
    torch.set_num_threads(settings.threads)
    model = load(teacher).model(torch_dtype(settings)).to(settings.device)
    return layer_sensitivity(model, order, blocks, MICRO_BATCH)
