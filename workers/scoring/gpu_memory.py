"""What fits where: a teacher on the GPU, and errors that say that something did not fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

DEVICE_SHARE = 0.5
"""The teacher is kept on the GPU where it fills no more than this share of a worker's memory."""


def worker_memory(share: float) -> float:
    """Bytes of the GPU that one worker may take now.

    `share` is the part of the GPU's memory that is this worker's.
    """
    free, total = torch.cuda.mem_get_info()
    return min(free, share * total)


def on_device(weights: Mapping[str, Tensor], share: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights on the GPU in a dtype, tied ones once; as they are where they would not fit."""
    unique = {id(tensor): tensor for tensor in weights.values()}
    size = sum(tensor.numel() for tensor in unique.values()) * dtype.itemsize
    if size > DEVICE_SHARE * worker_memory(share):
        return dict(weights)
    moved = {key: tensor.to("cuda", dtype) for key, tensor in unique.items()}
    return {name: moved[id(tensor)] for name, tensor in weights.items()}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on either kind of device."""
    # The CPU allocator of torch, and cuBLAS, raise plain RuntimeErrors.
    text = str(error)
    return (
        isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        or ("DefaultCPUAllocator" in text and "memory" in text)
        or "CUBLAS_STATUS_ALLOC_FAILED" in text
        or "CUDA error: out of memory" in text  # of pinned memory, too
    )
