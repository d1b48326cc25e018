"""How much the loss grows when one layer of a teacher is thinned: which layers need their width.

Half of the layer's query groups and half of its neurons are dropped, the least important ones by an
order; all else stays. It is the prior of layer-wise widths in `evo.genome.space`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evo.genome.cost import Architecture, forward_flops
from evo.genome.ranking import Order
from evo.model.importance import LAYER_SEQUENCES, spread_over
from evo.model.litgpt import GPT
from evo.model.nll import summed_nll

LEAST = 0.01
"""A layer counts at least this share of the largest growth, even where the loss falls."""


@torch.inference_mode()
def layer_sensitivity(
    model: GPT, order: Order, blocks: NDArray[np.int32], micro_batch: int = 8
) -> NDArray[np.float64]:
    """By how much the NLL grows, nats per token, above zero, shape [L].

    Args:
        model: the teacher.
        order: of the teacher.
        blocks: token ids, shape [N, T]; `LAYER_SEQUENCES` of them, evenly spread, are used.
        micro_batch: sequences that run at once.
    """
    few = spread_over(blocks, LAYER_SEQUENCES)
    targets = len(few) * (few.shape[1] - 1)

    def nll() -> float:
        return float(summed_nll(model, few, micro_batch=micro_batch).sum()) / targets

    whole = nll()
    growth = np.empty(len(model.transformer.h))
    for index, block in enumerate(model.transformer.h):
        handles = [
            matrix.register_forward_pre_hook(_keeping_half(ranks[index]))
            for matrix, ranks in ((block.attn.proj, order.groups), (block.mlp.proj, order.neurons))
        ]
        try:
            growth[index] = nll() - whole
        finally:
            for handle in handles:
                handle.remove()
    if growth.max() <= 0:  # no layer matters more than another
        return np.ones_like(growth)
    return np.maximum(growth, LEAST * growth.max())


def sensitivity_flops(architecture: Architecture, sequences: int, length: int) -> int:
    """What `layer_sensitivity` costs on so many sequences of so many tokens, in FLOPs."""
    widths = architecture.full_widths
    few = min(sequences, LAYER_SEQUENCES)
    return (1 + widths.layers) * few * length * forward_flops(architecture, widths, length)


def _keeping_half(
    ranks: NDArray[np.int64],
) -> Callable[[nn.Module, tuple[Tensor]], Tensor]:
    """A hook of a matrix that reads groups or neurons: it sees the better half of them only."""
    kept = torch.from_numpy(ranks < -(-len(ranks) // 2))

    def hook(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        each = inputs[0].shape[-1] // len(kept)  # a group is several channels
        return inputs[0] * kept.to(inputs[0].device).repeat_interleave(each)

    return hook
