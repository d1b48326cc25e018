"""How fast a device multiplies matrices: what FLOPs per second are measured against."""

from __future__ import annotations

import time
from typing import Literal

import torch

SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns: 2 and 1100 GFLOPs."""

LEAST_SECONDS = 0.2
ROUNDS = 3


def matmul_rate(device: torch.device, precision: Literal["float32", "bfloat16"]) -> float:
    """FLOPs per second of a large square matrix product, the best of some.

    It is measured, not looked up by the device's name: it then holds for any device, at its
    present clock, and for as many threads as there are. A product never reaches the peak that a
    data sheet states, so a utilisation relative to this is higher than one relative to that.

    Args:
        device: on which to measure, as training will use it.
        precision: of the product.
    """
    size = SIZES.get(device.type, SIZES["cuda"])
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    # Random ones: products of constants take less power, and so run at a higher clock.
    generator = torch.Generator(device).manual_seed(0)
    one, other = (
        torch.randn(size, size, generator=generator, dtype=dtype, device=device) for _ in range(2)
    )
    fastest, spent, rounds = float("inf"), 0.0, 0
    _timed(one, other)  # libraries choose and load their kernels at the first call
    while rounds < ROUNDS or spent < LEAST_SECONDS:
        seconds = _timed(one, other)
        fastest, spent, rounds = min(fastest, seconds), spent + seconds, rounds + 1
    return 2 * size**3 / fastest


def _timed(one: torch.Tensor, other: torch.Tensor) -> float:
    """Seconds."""
    _wait(one.device)
    began = time.perf_counter()
    torch.mm(one, other)
    _wait(one.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
