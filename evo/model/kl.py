"""KL divergence from the teacher to a candidate, and the candidate's NLL, in one pass.

Forward KL, as in distillation: sum over v of p(v) * (log p(v) - log q(v)), the teacher's
probabilities p and the candidate's q both over the real vocabulary, padding left out. Nobody's
logits are ever held for a batch: they are made tile by tile, as in `evo.model.nll`.

Over the full vocabulary, the teacher's hidden states are kept and its logits made again beside the
candidate's. Over its top k, only its k largest log-probabilities are kept, and all other tokens
count as one: sum over the top k of p log(p / q), plus p_rest log(p_rest / q_rest), where p_rest
and q_rest are what is left of 1. (Tokens that the teacher thinks unlikely thus still cost a
candidate that likes them, which they would not if both were renormalised over the k.) It never
exceeds the full divergence and equals it where k is the whole vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo.errors import UserError
from evo.model.litgpt import GPT
from evo.model.nll import batches, in_parts, log_sum_exp, logit_tiles, row_sums, target_logits

LEAST_TOP_K = 512
TINY = torch.finfo(torch.float32).eps
"""What is left of 1 in float32 is never taken for less."""


@dataclass(frozen=True)
class Divergence:
    """Which divergence.

    Attributes:
        vocabulary: token ids below this are real, in teacher and candidate.
        top_k: over the teacher's so many likeliest tokens and one for all others; None is the full
            vocabulary, and so is what is no smaller.

    Raises:
        UserError: too few.
    """

    vocabulary: int
    top_k: int | None = None

    def __post_init__(self) -> None:
        least = min(LEAST_TOP_K, self.vocabulary)
        if self.top_k is not None and self.top_k < least:
            raise UserError(f"--kl-top-k {self.top_k} is too few to rank by: give {least} or more")
        if self.top_k is not None and self.top_k >= self.vocabulary:
            object.__setattr__(self, "top_k", None)


@dataclass(frozen=True)
class TeacherStates:
    """What a divergence needs of the teacher, at each target of N sequences of T tokens.

    Attributes:
        values: over the full vocabulary, what the teacher's head sees, shape [N, T-1, channels];
            over its top k, their log-probabilities, float32, shape [N, T-1, k].
        extra: over the full vocabulary, the logarithm of the sum of exponentials of the real
            logits, float32, shape [N, T-1]; over the top k, their token ids, int32, shape
            [N, T-1, k].
    """

    values: Tensor
    extra: Tensor

    @property
    def nbytes(self) -> int:
        """What they occupy."""
        return self.values.nbytes + self.extra.nbytes

    def pinned(self) -> TeacherStates:
        """In memory from which a GPU reads fast."""
        return TeacherStates(self.values.pin_memory(), self.extra.pin_memory())


@torch.inference_mode()
def teacher_states(
    teacher: GPT, blocks: NDArray[np.integer], divergence: Divergence, micro_batch: int
) -> TeacherStates:
    """Run the teacher once, for any number of candidates; what it gives is kept on the CPU.

    Args:
        teacher: in evaluation, on the device where it is to run.
        blocks: token ids, shape [N, T].
        divergence: which one.
        micro_batch: rows that run through the teacher at once.
    """
    parts = [
        [tensor.cpu() for tensor in _states(teacher, hidden, divergence)]
        for batch, _ in batches(teacher, blocks, micro_batch)
        for (hidden,) in in_parts(batch)
    ]
    shape = (len(blocks), blocks.shape[1] - 1)
    values, extra = (torch.cat(list(each)).unflatten(0, shape) for each in zip(*parts, strict=True))
    return TeacherStates(values, extra)


@torch.inference_mode()
def summed_nll_and_divergence(
    model: GPT,
    teacher: GPT,
    blocks: NDArray[np.integer],
    states: TeacherStates,
    divergence: Divergence,
    *,
    micro_batch: int = 8,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The summed NLL and the summed divergence of each block, in nats.

    Args:
        model: the candidate, in evaluation, on the device where it is to run.
        teacher: of which only the head is used; on the same device.
        blocks: token ids, shape [N, T].
        states: of the same blocks.
        divergence: with which the states were made.
        micro_batch: rows that run through the model at once.

    Returns:
        Shape [N] each, each row summed in float64.
    """
    sums: list[tuple[NDArray[np.float64], ...]] = []
    start, per_row = 0, blocks.shape[1] - 1
    for hidden, targets in batches(model, blocks, micro_batch):
        rows = slice(start, start + len(hidden) // per_row)
        kept = [
            tensor[rows].to(hidden.device).flatten(0, 1) for tensor in (states.values, states.extra)
        ]
        parts = []
        for own, own_targets, values, extra in in_parts(hidden, targets, *kept):
            if divergence.top_k is None:
                sizes, distance = _full(model, teacher, own, values, extra, divergence.vocabulary)
            else:
                sizes, distance = _top(model, own, values, extra, divergence.vocabulary)
            parts.append((sizes - target_logits(model, own, own_targets), distance))
        both = (torch.cat(column) for column in zip(*parts, strict=True))
        sums.append(tuple(row_sums(values, len(hidden), per_row) for values in both))
        start = rows.stop
    nll, distances = (np.concatenate(column) for column in zip(*sums, strict=True))
    return nll, distances


def _states(teacher: GPT, hidden: Tensor, divergence: Divergence) -> tuple[Tensor, Tensor]:
    """What `TeacherStates` holds for some positions."""
    size, k = divergence.vocabulary, divergence.top_k
    sums: list[Tensor] = []
    logits = hidden.new_empty((len(hidden), 0), dtype=torch.float32)
    ids = hidden.new_empty((len(hidden), 0), dtype=torch.int64)
    for start, tile in logit_tiles(teacher, hidden, size):
        if start >= size:
            break
        sums.append(log_sum_exp(tile))
        if k is not None:  # the best of this tile and of those before
            own = torch.arange(start, start + tile.size(1), device=tile.device).expand(tile.shape)
            logits, ids = torch.cat([logits, tile], 1), torch.cat([ids, own], 1)
            if logits.size(1) > k:
                logits, chosen = logits.topk(k)
                ids = ids.gather(1, chosen)
    normaliser = torch.stack(sums, 1).logsumexp(1)
    if k is None:
        return hidden, normaliser
    return logits - normaliser[:, None], ids.int()


def _full(
    model: GPT, teacher: GPT, hidden: Tensor, theirs: Tensor, their_normaliser: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """The log of the sum of exponentials of all logits, and the divergence, at some positions."""
    sums: list[Tensor] = []
    real, mass, expected = 0, torch.zeros_like(their_normaliser), torch.zeros_like(their_normaliser)
    tiles = zip(logit_tiles(model, hidden, size), logit_tiles(teacher, theirs, size), strict=True)
    for (start, logits), (_, their_logits) in tiles:
        sums.append(log_sum_exp(logits))
        if start < size:
            real += 1
            log_probability = their_logits - their_normaliser[:, None]
            probability = log_probability.exp()
            mass += probability.sum(1)
            expected += (probability * (log_probability - logits)).sum(1)
    log_normaliser = torch.stack(sums, 1)
    # The mass is 1 but for rounding, which would else be multiplied by the size of the logits.
    distance = expected + mass * log_normaliser[:, :real].logsumexp(1)
    return log_normaliser.logsumexp(1), distance


def _top(
    model: GPT, hidden: Tensor, log_probability: Tensor, ids: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """The same over the teacher's top k."""
    sums: list[Tensor] = []
    real, chosen, ids = 0, torch.zeros_like(log_probability), ids.long()
    for start, logits in logit_tiles(model, hidden, size):
        sums.append(log_sum_exp(logits))
        if start < size:
            real += 1
            width = logits.size(1)
            inside = (ids >= start) & (ids < start + width)
            found = logits.gather(1, (ids - start).clamp(0, width - 1))
            chosen = torch.where(inside, found, chosen)
    log_normaliser = torch.stack(sums, 1)
    own = chosen - log_normaliser[:, :real].logsumexp(1, keepdim=True)
    probability = log_probability.exp()
    rest = (1 - probability.sum(1)).clamp_min(TINY)
    own_rest = (1 - own.exp().sum(1)).clamp_min(TINY)
    distance = (probability * (log_probability - own)).sum(1) + rest * (rest / own_rest).log()
    return log_normaliser.logsumexp(1), distance
