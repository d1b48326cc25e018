"""A teacher that runs: beside the student, or once for all students to come."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from litgpt.model import GPT
from torch import Tensor

from evo import checkpoint
from evo.model import hidden_states
from training.divergences import TopK, top_k_of
from training.losses import TeacherStates, cast, head_of, logits_of, product_dtype, rows_per_chunk


def load_teacher(
    directory: Path, precision: Literal["float32", "bfloat16"], device: torch.device
) -> GPT:
    """A checkpoint as a teacher: without gradients, stored as it computes.

    Args:
        directory: of the checkpoint.
        precision: of matrix products.
        device: where it runs.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return checkpoint.load(directory).model(dtype).requires_grad_(False).to(device)


@torch.no_grad()
def teacher_states(teacher: GPT, tokens: Tensor) -> TeacherStates:
    """What a loss sees of a teacher beside the student.

    Args:
        teacher: of which the head runs later, some positions at a time.
        tokens: shape [B, T]; the last of each sequence is only a target.
    """
    return TeacherStates(hidden_states(teacher, tokens[:, :-1]).flatten(0, 1), head_of(teacher))


@torch.no_grad()
def teacher_top_k(teacher: GPT, tokens: Tensor, *, vocabulary: int, k: int) -> TopK:
    """What is kept of a teacher; no more than a chunk of its logits is ever held.

    Args:
        teacher: as for `teacher_states`.
        tokens: shape [B, T].
        vocabulary: token ids below this are real.
        k: less than that.

    Returns:
        At the B * (T-1) positions that have a target.
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
