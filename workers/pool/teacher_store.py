"""The owner of a teacher's weights in Ray's object store, where all scorers of a node share them.

Weights are stored as numpy arrays, because Ray maps those into every reader's memory without a
copy; bfloat16, which numpy lacks, as its 16 bits. They are read-only: to write to one in place
would corrupt it for everybody.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import (
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    RayActorError,
    RayTaskError,
)
from torch import Tensor

from evo.errors import UserError
from evo.model import checkpoint
from evo.model.litgpt import Config

FETCH_ATTEMPTS = 5
FETCH_PAUSE = 2.0
"""Seconds between attempts, for the store to come back in."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in the object store.

    Attributes:
        array: reference to a numpy array of its bits.
        dtype: the tensor's.
    """

    array: ray.ObjectRef
    dtype: torch.dtype


@dataclass(frozen=True)
class StoredTeacher:
    """What a scorer needs, large parts by reference.

    Attributes:
        config: the teacher's.
        tied: whether its embedding and output head are one matrix.
        tensors: by litgpt's names; tied ones are one object under two names.
    """

    config: Config
    tied: bool
    tensors: dict[str, StoredTensor]


class TeacherStore:
    """Loads a checkpoint at the first call and keeps its weights in the object store.

    The actor belongs to the job that made it, and restarts if its process dies: it then puts the
    weights again.
    """

    def __init__(self, path: str) -> None:
        """Does not load yet: a bad checkpoint is then an error of a call, which keeps its kind.

        Args:
            path: the checkpoint's directory, as this node sees it.
        """
        self._path = Path(path)
        self._teacher: StoredTeacher | None = None

    def teacher(self) -> StoredTeacher:
        """The teacher, put into the object store by the first call.

        Raises:
            UserError: the checkpoint cannot be used, or its weights do not fit into the store.
        """
        if self._teacher is None:
            loaded = checkpoint.load(self._path)
            tensors: dict[str, StoredTensor] = {}
            stored: dict[int, StoredTensor] = {}
            for name, tensor in loaded.weights.items():
                if id(tensor) not in stored:
                    stored[id(tensor)] = self._put(tensor)
                tensors[name] = stored[id(tensor)]
            self._teacher = StoredTeacher(loaded.config, loaded.tied, tensors)
        return self._teacher

    def _put(self, tensor: Tensor) -> StoredTensor:
        try:
            return StoredTensor(ray.put(_bits(tensor)), tensor.dtype)
        except (ObjectStoreFullError, OutOfDiskError) as error:
            raise UserError(
                f"the weights of {self._path} do not fit into Ray's object store: start Ray with "
                "a larger object_store_memory"
            ) from error


def create_store(path: Path) -> ActorHandle:
    """Start a store for a checkpoint.

    Args:
        path: the checkpoint's directory; every node that may run the store must see it.
    """
    options: dict[str, Any] = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    actor_class: Any = ray.remote(**options)(TeacherStore)
    return actor_class.remote(str(Path(path).resolve()))


@dataclass
class Teacher:
    """A teacher as views of the object store.

    Attributes:
        config: the teacher's.
        tied: whether its embedding and output head are one matrix.
        weights: read-only, by litgpt's names; tied ones are one tensor under two names.
    """

    config: Config
    tied: bool
    weights: Mapping[str, Tensor]


def fetch_teacher(store: ActorHandle) -> Teacher:
    """Map a store's teacher into this process's memory, without a copy.

    Raises:
        UserError: the checkpoint cannot be used.
        ray.exceptions.RayError: the store died again and again while its objects were fetched.
    """
    for attempt in range(1, FETCH_ATTEMPTS + 1):
        try:
            reference: ray.ObjectRef[StoredTeacher] = store.teacher.remote()
            return _map_teacher(ray.get(reference))
        except RayTaskError as error:
            raise_user_error(error)
            raise
        except (ObjectLostError, RayActorError):
            # The store died between the two calls: its objects went with it, new ones will come.
            if attempt == FETCH_ATTEMPTS:
                raise
            time.sleep(FETCH_PAUSE)
    raise AssertionError("the last attempt returns or raises")


def _map_teacher(stored: StoredTeacher) -> Teacher:
    unique = list({tensor.array: tensor for tensor in stored.tensors.values()}.values())
    arrays = ray.get([tensor.array for tensor in unique])
    views = {
        tensor.array: _view(array, tensor.dtype)
        for tensor, array in zip(unique, arrays, strict=True)
    }
    weights = {name: views[tensor.array] for name, tensor in stored.tensors.items()}
    return Teacher(stored.config, stored.tied, weights)


def raise_user_error(error: RayTaskError) -> None:
    """Raise the `UserError` that a call of an actor ended with, without Ray's traceback around it.

    Does nothing where it ended with another error.
    """
    if isinstance(error.cause, UserError):
        raise UserError(str(error.cause)) from None


def _bits(tensor: Tensor) -> NDArray[Any]:
    """A tensor as numpy, without a copy where it is contiguous."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _view(bits: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """The inverse of `_bits`, over the same memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(bits)
    return tensor.view(dtype)
