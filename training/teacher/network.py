"""A teacher that runs: beside the student, or once for all students to come."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from evo.model import checkpoint
from evo.model.layerwise_gpt import hidden_states, without_idle_windows
from evo.model.litgpt import GPT
from training.losses.chunked_loss import (
    TeacherStates,
    cast,
    head_of,
    logits_of,
    product_dtype,
    rows_per_chunk,
)
from training.losses.divergences import TopK, top_k_of


class TeacherNetwork(nn.Module):
    """A network that is distilled: it maps tokens to the hidden states that its head takes.

    It is a module of its own because its forward gathers a sharded teacher's weights. The network
    is without gradients.
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states, shape [B, T, channels].

        Args:
            tokens: token ids, shape [B, T].
        """
        return hidden_states(self.model, tokens)


def teacher_dtype(precision: Literal["float32", "bfloat16"]) -> torch.dtype:
    """The dtype of a teacher's weights, which is that of its matrix products."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def load_teacher(
    directory: Path,
    precision: Literal["float32", "bfloat16"],
    sequence_length: int,
    *,
    mapped: bool = False,
) -> TeacherNetwork:
    """Load a checkpoint as a teacher, without gradients, on the CPU.

    `precision` is the dtype of matrix products, and of the weights unless they are mapped: those
    stay in their file, as they are stored, for `parallel.shard`. `sequence_length` is the longest
    sequence that it is to see.
    """
    stored = checkpoint.load(directory)
    model = stored.mapped_model() if mapped else stored.model(teacher_dtype(precision))
    return TeacherNetwork(without_idle_windows(model, sequence_length).requires_grad_(False))


@torch.no_grad()
def teacher_states(teacher: TeacherNetwork, tokens: Tensor) -> TeacherStates:
    """A running teacher as the loss sees it.

    Args:
        teacher: the teacher, whose head runs later, on some positions at a time.
        tokens: token ids, shape [B, T]; the last of each sequence is only a target.
    """
    return TeacherStates(teacher(tokens[:, :-1]).flatten(0, 1), head_of(teacher.model))


@torch.no_grad()
def teacher_top_k(teacher: TeacherNetwork, tokens: Tensor, *, vocabulary: int, k: int) -> TopK:
    """A teacher's k likeliest tokens; no more than a chunk of its logits is ever held.

    Args:
        teacher: the teacher.
        tokens: token ids, shape [B, T].
        vocabulary: token ids below this are real.
        k: number of tokens, less than the vocabulary.

    Returns:
        The tokens at the B * (T-1) positions that have a target.
    """
    hidden, head = teacher_states(teacher, tokens)
    dtype = product_dtype(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        head = cast(head, dtype)
        parts = [
            top_k_of(logits_of(rows.to(dtype), head)[:, :vocabulary], k)
            for rows in hidden.split(rows_per_chunk(head, len(hidden)))
        ]
    return TopK(*map(torch.cat, zip(*parts, strict=True)))
