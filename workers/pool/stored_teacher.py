"""A teacher's weights in Ray's object store, where all scorers of a node share them.

Weights are stored as numpy arrays, because Ray maps those into every reader's memory without a
copy; bfloat16, which numpy lacks, as its 16 bits. They are read-only: to write to a tensor in place
would corrupt it for everybody. They belong to the process that stored them, and go with it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import ObjectStoreFullError, OutOfDiskError
from torch import Tensor

from evo.errors import UserError
from evo.genome.subnet import Widths
from evo.model.litgpt import Config
from evo.model.network import Network


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
    """A `Network` whose tensors lie in the object store.

    Attributes:
        config: litgpt's description.
        widths: of its blocks.
        tied: whether its embedding and output head are one matrix.
        tensors: by litgpt's names; tied ones are one object under two names.
    """

    config: Config
    widths: Widths
    tied: bool
    tensors: dict[str, StoredTensor]


class TeacherStore:
    """A teacher that is copied into the object store when it is first needed there."""

    def __init__(self, teacher: Network) -> None:
        self._teacher = teacher
        self._stored: StoredTeacher | None = None

    def get(self) -> StoredTeacher:
        """The stored teacher; Ray must have been initialised.

        Raises:
            UserError: the weights do not fit into the store.
        """
        if self._stored is None:
            self._stored = store_teacher(self._teacher)
        return self._stored

    def release(self) -> None:
        """Let the weights go from the object store as soon as no worker uses them."""
        self._stored = None


def store_teacher(teacher: Network) -> StoredTeacher:
    """Copy a network's weights into the object store. Ray must have been initialised.

    Raises:
        UserError: the weights do not fit into the store.
    """
    tensors: dict[str, StoredTensor] = {}
    stored: dict[int, StoredTensor] = {}
    for name, tensor in teacher.weights.items():
        if id(tensor) not in stored:
            stored[id(tensor)] = _put(tensor)
        tensors[name] = stored[id(tensor)]
    return StoredTeacher(teacher.config, teacher.widths, teacher.tied, tensors)


def fetch_teacher(stored: StoredTeacher) -> Network:
    """Map a stored teacher into this process's memory, without a copy."""
    unique = list({tensor.array: tensor for tensor in stored.tensors.values()}.values())
    arrays = ray.get([tensor.array for tensor in unique])
    views = {
        tensor.array: _view(array, tensor.dtype)
        for tensor, array in zip(unique, arrays, strict=True)
    }
    weights = {name: views[tensor.array] for name, tensor in stored.tensors.items()}
    return Network(stored.config, stored.widths, weights, stored.tied)


def _put(tensor: Tensor) -> StoredTensor:
    try:
        return StoredTensor(ray.put(_bits(tensor)), tensor.dtype)
    except (ObjectStoreFullError, OutOfDiskError) as error:
        raise UserError(
            "the teacher's weights do not fit into Ray's object store: start Ray with a larger "
            "object_store_memory"
        ) from error


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
