"""Summed negative log-likelihood of token blocks, without ever holding a batch's logits.

With a 50k vocabulary the logits, not the blocks, would fill the memory. The head therefore runs
tile by tile, some positions by some of the vocabulary, and a tile is reduced to its log-sum-exp
while it is still in the processor's cache; those of a position's tiles add up to that of its row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from litgpt.model import GPT, do_softcapping
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evo import onednn
from evo.model import hidden_states


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


@torch.inference_mode()
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
    device = model.lm_head.weight.device
    _keep_freed_memory()
    sums = np.empty(len(blocks), np.float64)
    for start in range(0, len(blocks), micro_batch):
        rows = torch.from_numpy(blocks[start : start + micro_batch].astype(np.int64)).to(device)
        with onednn.OneDNNLinear():
            hidden = hidden_states(model, rows[:, :-1]).flatten(0, 1)
        targets = rows[:, 1:].flatten()
        count = math.ceil(len(hidden) / _tile(device).positions)
        parts = zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True)
        nll = torch.cat([_token_nll(model, *part) for part in parts])
        sums[start : start + len(rows)] = nll.view(len(rows), -1).double().sum(1).cpu().numpy()
    return sums


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tile, and not map every tile's pages anew.

    It learns from the largest block that was freed so far, up to 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD). The block is never touched. Without it, scoring takes up to twice the time.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _tile(device: torch.device) -> Tile:
    return CUDA_TILE if device.type == "cuda" else CPU_TILE


def _token_nll(model: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """NLL of each target, float32, shape [positions].

    Args:
        model: whose head to use.
        hidden: shape [positions, channels].
        targets: token ids, shape [positions].
    """
    weight, bias = model.lm_head.weight, model.lm_head.bias
    threshold = model.config.final_logit_softcapping
    target = (hidden.float() * weight[targets].float()).sum(1)
    if bias is not None:
        target += bias[targets]
    if onednn.takes(hidden):
        hidden = hidden.to_mkldnn()
    width = _tile(weight.device).vocabulary
    sums = []
    for start in range(0, len(weight), width):
        part = slice(start, start + width)
        logits = functional.linear(hidden, weight[part], None if bias is None else bias[part])
        logits = logits.to_dense().float() if logits.is_mkldnn else logits.float()
        if threshold is not None:
            logits = do_softcapping(logits, threshold)
        sums.append(_logsumexp(logits))
    if threshold is not None:
        target = do_softcapping(target, threshold)
    return torch.stack(sums, 1).logsumexp(1) - target


def _logsumexp(logits: Tensor) -> Tensor:
    """Over the last dimension: log_softmax is x - logsumexp(x), and one fused pass."""
    return logits[:, 0] - torch.log_softmax(logits, 1)[:, 0]
