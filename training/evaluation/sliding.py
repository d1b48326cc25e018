"""Perplexity with a sliding window: every target once, each with much context.

Blocks side by side give the first tokens of each hardly any context. Windows that overlap score
only their last targets, and so cost as many times more as they overlap.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from evo.errors import UserError
from evo.model.litgpt import GPT
from evo.model.nll import batches, in_parts, token_nll


def windows(tokens: int, length: int, stride: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Place windows over a text that between them score every token but the first once.

    A target has at least `length - stride` tokens of context, or all that there are before it. The
    last window reaches back as far as the others do.

    Args:
        tokens: the number of tokens of the text.
        length: the tokens of a window; a shorter text is one window.
        stride: the number of targets that a window scores, except the first one.

    Returns:
        The first token of each window, and the number of its last targets that it scores, both of
        shape [W].

    Raises:
        UserError: the stride leaves no context, or there is nothing to score.
    """
    if not 1 <= stride < length:
        raise UserError(
            f"--stride {stride} cannot be: give 1 to {length - 1}, less than the sequence length"
        )
    if tokens < 2:
        raise UserError("the text has less than two tokens: there is nothing to predict")
    length = min(length, tokens)
    ends = np.append(np.arange(length, tokens, stride), tokens)
    return ends - length, np.diff(ends, prepend=1)


@torch.inference_mode()
def summed_tail_nll(
    model: GPT,
    blocks: NDArray[np.integer],
    counts: NDArray[np.int64],
    *,
    micro_batch: int = 8,
) -> NDArray[np.float64]:
    """Sum the NLL of the last targets of each block, in nats.

    Args:
        model: the network in evaluation mode, on the device where it is to run.
        blocks: token ids, shape [N, T].
        counts: the number of the last of its T-1 targets that count, shape [N].
        micro_batch: the number of rows that run through the model at once.

    Returns:
        The sums, each in float64, shape [N].
    """
    sums: list[float] = []
    places = np.arange(blocks.shape[1] - 1)
    for start, (hidden, targets) in zip(
        range(0, len(blocks), micro_batch), batches(model, blocks, micro_batch), strict=True
    ):
        rows = counts[start : start + micro_batch]
        scored = torch.from_numpy(places >= len(places) - rows[:, None]).flatten()
        scored = scored.to(targets.device)
        parts = in_parts(hidden[scored], targets[scored])
        nll = torch.cat([token_nll(model, *part) for part in parts])
        sums += [part.double().sum().item() for part in nll.split(rows.tolist())]
    return np.array(sums)
