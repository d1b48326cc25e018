"""Summed negative log-likelihood of token blocks, without ever holding a batch's logits.

With a 50k vocabulary the logits, not the blocks, would fill the memory. The head therefore runs
tile by tile, some positions by some of the vocabulary, and a tile is reduced to its log-sum-exp
while it is still in the processor's cache; those of a position's tiles add up to that of its row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evo.model import onednn
from evo.model.layerwise_gpt import hidden_states
from evo.model.litgpt import GPT, do_softcapping


@dataclass(frozen=True)
class Tile:
    """How much of the logits is there at once.

    Attributes:
        positions: the most rows of a tile; a batch is cut into even parts.
        vocabulary: columns of a tile.
    """

    positions: int
    vocabulary: int


CPU_TILE = Tile(positions=512, vocabulary=1024)
"""2 MiB in float32: measured as the fastest on a core with 1 MiB of L2 and 16 MiB of L3 cache."""

CUDA_TILE = Tile(positions=4096, vocabulary=16384)
"""256 MiB in float32."""


@torch.no_grad()
def summed_nll(
    model: GPT, blocks: NDArray[np.integer], *, micro_batch: int = 8
) -> NDArray[np.float64]:
    """The summed NLL of each block, in nats.

    Args:
        model: in evaluation, on the device where it is to run.
        blocks: token ids, shape [N, T]. A row of T tokens has T-1 targets.
        micro_batch: rows that run through the model at once.

    Returns:
        Shape [N], each row summed in float64.
    """
    sums = []
    for batch in batches(model, blocks, micro_batch):
        nll = torch.cat([token_nll(model, *part) for part in in_parts(*batch)])
        sums.append(row_sums(nll, len(batch[0]), blocks.shape[1] - 1))
    return np.concatenate(sums) if sums else np.empty(0)


def batches(
    model: GPT, blocks: NDArray[np.integer], micro_batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What the head sees of each micro-batch, and its targets.

    Args:
        model: in evaluation, on the device where it is to run.
        blocks: token ids, shape [N, T].
        micro_batch: rows that run through the model at once.

    Yields:
        Hidden states of shape [positions, channels] and token ids of shape [positions]; the
        positions are those of the rows one after the other, T-1 of each.
    """
    device = model.lm_head.weight.device
    _keep_freed_memory()
    for start in range(0, len(blocks), micro_batch):
        rows = torch.from_numpy(blocks[start : start + micro_batch].astype(np.int64)).to(device)
        with onednn.OneDNNLinear():
            hidden = hidden_states(model, rows[:, :-1]).flatten(0, 1)
        yield hidden, rows[:, 1:].flatten()


def in_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same positions of each tensor, shape [positions, ...], a tile's worth at a time."""
    count = math.ceil(len(tensors[0]) / _tile(tensors[0].device).positions)
    return zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True)


def row_sums(values: Tensor, positions: int, per_row: int) -> NDArray[np.float64]:
    """Values of a micro-batch's positions, summed in float64 over those of each row."""
    return values.view(positions // per_row, per_row).double().sum(1).cpu().numpy()


def logit_tiles(
    model: GPT, hidden: Tensor, boundary: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """The logits of some positions, some of the vocabulary at a time.

    Args:
        model: whose head to use.
        hidden: shape [positions, channels].
        boundary: a token id at which a tile begins.

    Yields:
        The tile's first token id, and its logits: float32, shape [positions, tile].
    """
    weight, bias = model.lm_head.weight, model.lm_head.bias
    threshold = model.config.final_logit_softcapping
    if onednn.takes(hidden):
        hidden = hidden.to_mkldnn()
    width, end = _tile(weight.device).vocabulary, len(weight)
    middle = end if boundary is None else boundary
    for start in (*range(0, middle, width), *range(middle, end, width)):
        part = slice(start, min(start + width, middle if start < middle else end))
        logits = functional.linear(hidden, weight[part], None if bias is None else bias[part])
        logits = logits.to_dense().float() if logits.is_mkldnn else logits.float()
        yield start, logits if threshold is None else do_softcapping(logits, threshold)


def target_logits(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """The logit of each target, float32, shape [positions].

    Args:
        model: whose head to use.
        hidden: shape [positions, channels].
        targets: token ids, shape [positions].
    """
    weight, bias = model.lm_head.weight, model.lm_head.bias
    threshold = model.config.final_logit_softcapping
    logits = (hidden.float() * weight[targets].float()).sum(1)
    if bias is not None:
        logits += bias[targets]
    return logits if threshold is None else do_softcapping(logits, threshold)


def log_sum_exp(logits: Tensor) -> Tensor:
    """Over the last dimension: log_softmax is x - logsumexp(x), and one fused pass."""
    return logits[:, 0] - torch.log_softmax(logits, 1)[:, 0]


def token_nll(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """NLL of each target, float32, shape [positions]."""
    sums = [log_sum_exp(logits) for _, logits in logit_tiles(model, hidden)]
    return torch.stack(sums, 1).logsumexp(1) - target_logits(model, hidden, targets)


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tile, and not map every tile's pages anew.

    It learns from the largest block that was freed so far, up to 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD). The block is never touched. Without it, scoring takes up to twice the time.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _tile(device: torch.device) -> Tile:
    return CUDA_TILE if device.type == "cuda" else CPU_TILE
