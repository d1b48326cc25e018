"""Summed negative log-likelihood of token blocks, without ever holding a batch's logits.

With a 50k vocabulary the logits, not the blocks, would fill the memory: the head runs over chunks
of positions, and every chunk's logits live in one buffer that is reused.
"""

from __future__ import annotations

import numpy as np
import torch
from litgpt.model import GPT
from numpy.typing import NDArray
from torch import Tensor

from evo.model import head_logits, hidden_states

CHUNK_BYTES = 16 * 2**20
"""Size of the buffer of logits on CPU, about a core's share of the last-level cache."""

CHUNK_BYTES_CUDA = 512 * 2**20


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
    sums = np.empty(len(blocks), np.float64)
    buffer: Tensor | None = None
    for start in range(0, len(blocks), micro_batch):
        rows = torch.from_numpy(blocks[start : start + micro_batch].astype(np.int64)).to(device)
        hidden = hidden_states(model, rows[:, :-1])
        nll, buffer = _token_nll(model, hidden.flatten(0, 1), rows[:, 1:].flatten(), buffer)
        sums[start : start + len(rows)] = nll.view(len(rows), -1).double().sum(1).cpu().numpy()
    return sums


def _token_nll(
    model: GPT, hidden: Tensor, targets: Tensor, buffer: Tensor | None
) -> tuple[Tensor, Tensor]:
    """NLL of each target, float32, shape [positions], and the buffer of logits for reuse."""
    weight, bias = model.lm_head.weight, model.lm_head.bias
    vocabulary = weight.size(0)
    limit = CHUNK_BYTES_CUDA if hidden.is_cuda else CHUNK_BYTES
    chunk = max(1, min(len(hidden), limit // (vocabulary * hidden.element_size())))
    if buffer is None or len(buffer) < chunk:
        buffer = hidden.new_empty(chunk, vocabulary)
    nll = hidden.new_empty(len(hidden), dtype=torch.float32)
    for start in range(0, len(hidden), chunk):
        part = hidden[start : start + chunk]
        logits = buffer[: len(part)]
        if model.config.final_logit_softcapping is not None:
            logits.copy_(head_logits(model, part))
        elif bias is not None:
            torch.addmm(bias, part, weight.t(), out=logits)
        else:
            torch.mm(part, weight.t(), out=logits)
        target = logits.gather(1, targets[start : start + len(part), None]).squeeze(1).float()
        nll[start : start + len(part)] = torch.logsumexp(logits.float(), dim=1) - target
    return nll, buffer
