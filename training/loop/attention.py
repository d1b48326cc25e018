"""Attention runs in float32 where the CPU is faster at that."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from evo.model.litgpt import GPT


def use_float32_attention(model: GPT) -> None:
    """Let a network's attention, and nothing else, run in float32 under autocast.

    torch's attention kernel for the CPU takes twice as long in bfloat16, backward pass included
    (torch 2.13, AVX-512 with bfloat16, heads of 16).
    """
    for block in model.transformer.h:
        attend = block.attn.scaled_dot_product_attention
        block.attn.scaled_dot_product_attention = partial(_in_float32, attend)


def _in_float32(
    attend: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return attend(query.float(), key.float(), value.float(), mask)
