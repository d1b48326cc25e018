"""How fast a device multiplies matrices, as the reference of its utilisation."""

from __future__ import annotations

import time
from typing import Literal

import torch

SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices, whose product takes 2 or 1100 GFLOPs."""

LEAST_SECONDS = 0.2
ROUNDS = 3


def matmul_rate(device: torch.device, precision: Literal["float32", "bfloat16"]) -> float:
    """FLOPs per second of a large square matrix product, the best of several.

    The rate is measured, not looked up by the device's name: it then holds for any device, at its
    present clock and number of threads. A product never reaches the peak that a
    data sheet states, so a utilisation relative to this is higher than one relative to that.
    """
    size = SIZES.get(device.type, SIZES["cuda"])
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    # Random values: products of constants take less power, and so run at a higher clock.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (
        torch.randn(size, size, generator=generator, dtype=dtype, device=device) for _ in range(2)
    )
    fastest, spent, rounds = float("inf"), 0.0, 0
    _timed(left, right)  # libraries choose and load their kernels at the first call
    while rounds < ROUNDS or spent < LEAST_SECONDS:
        seconds = _timed(left, right)
        fastest, spent, rounds = min(fastest, seconds), spent + seconds, rounds + 1
    return 2 * size**3 / fastest


def _timed(left: torch.Tensor, right: torch.Tensor) -> float:
    """Seconds of a product."""
    _wait(left.device)
    began = time.perf_counter()
    torch.mm(left, right)
    _wait(left.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
