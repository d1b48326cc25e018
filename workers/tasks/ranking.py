"""Rank a teacher's parts on the cluster, where a worker would run; cached by what it depends on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.genome.importance_proxy import Importance
from evo.genome.ranking import Order
from evo.model.checkpoint import Checkpoint
from evo.model.importance import importance_by_activation, importance_by_magnitude
from evo.model.layer_sensitivity import layer_sensitivity
from evo.storage.cache import cached
from workers.pool.stored_teacher import StoredTeacher, TeacherStore, fetch_teacher
from workers.scoring.scorer import torch_dtype
from workers.settings import ScoringSettings
from workers.tasks.on_worker import on_worker

MICRO_BATCH = 8


@dataclass(frozen=True, eq=False)
class RankingInputs:
    """What a ranking depends on, and where it is computed.

    Attributes:
        teacher: the checkpoint, whose hash names the cached results.
        store: from which a worker has the teacher's weights, where nothing is cached.
        blocks: token ids, shape [N, T].
        text_hash: of the blocks.
        settings: device, dtype and threads of the worker.
        gpus: share of a GPU that the worker reserves.
    """

    teacher: Checkpoint
    store: TeacherStore
    blocks: NDArray[np.int32]
    text_hash: str
    settings: ScoringSettings
    gpus: float

    def cached_as(self, folder: str, text: str, kind: str, suffix: str) -> str:
        """The name of the file in which a result is cached."""
        how = f"{kind}-{self.settings.device}-{self.settings.dtype}"
        return f"{folder}/{self.teacher.hash}-{text}-{how}{suffix}"

    def compute(self, function: Any, *arguments: Any) -> Any:
        """Run a function of the stored teacher, and more, on a worker."""
        return on_worker(
            function,
            self.store.get(),
            *arguments,
            self.blocks,
            settings=self.settings,
            gpus=self.gpus,
            cpus=0,
        )


def rank(inputs: RankingInputs, kind: str) -> Order:
    """The order of a teacher, from the cache or from one worker's time.

    Args:
        inputs: the teacher and the text; the text matters to `activation` only.
        kind: `index`, `magnitude` or `activation`.
    """
    if kind == "index":
        return Order.by_index(inputs.teacher.architecture.dimensions)
    return Order.by_importance(**vars(measure_importance(inputs, kind)))


def measure_sensitivity(inputs: RankingInputs, kind: str, order: Order) -> NDArray[np.float64]:
    """What thinning each layer of a teacher costs, from the cache or from one worker's time.

    Args:
        inputs: the teacher and the text.
        kind: the order's, see `rank`.
        order: by which half of a layer is dropped.

    Returns:
        Shape [L], see `evo.model.layer_sensitivity.layer_sensitivity`.
    """
    name = inputs.cached_as("sensitivity", inputs.text_hash, kind, ".npy")
    return cached(name, partial(inputs.compute, _sensitivity, order), _save_array, np.load)


def measure_importance(inputs: RankingInputs, kind: str) -> Importance:
    """How important a teacher's parts are, from the cache or from one worker's time.

    Args:
        inputs: the teacher and the text; the text matters to `activation` only.
        kind: `magnitude` or `activation`.
    """
    text = inputs.text_hash if kind == "activation" else "any"
    name = inputs.cached_as("importance", text, kind, ".npz")
    return cached(
        name, partial(inputs.compute, _importance, kind), Importance.save, Importance.load
    )


def _save_array(array: NDArray[np.float64], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _importance(
    teacher: StoredTeacher, kind: str, blocks: NDArray[np.int32], settings: ScoringSettings
) -> Importance:
    model = fetch_teacher(teacher).model(torch_dtype(settings)).to(settings.device)
    if kind == "magnitude":
        return importance_by_magnitude(model)
    return importance_by_activation(model, blocks, MICRO_BATCH)


def _sensitivity(
    teacher: StoredTeacher, order: Order, blocks: NDArray[np.int32], settings: ScoringSettings
) -> NDArray[np.float64]:
    model = fetch_teacher(teacher).model(torch_dtype(settings)).to(settings.device)
    return layer_sensitivity(model, order, blocks, MICRO_BATCH)
