"""The settings of the training loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DivergenceKind = Literal["forward-kl", "reverse-kl", "symmetric-kl", "jensen-shannon"]
Tail = Literal["bucket", "renormalise"]


@dataclass(frozen=True)
class LossSettings:
    """`alpha * CE + beta * temperature^2 * divergence` from the teacher (Hinton et al. 2015).

    Attributes:
        alpha: weight of the cross-entropy with the text.
        beta: weight of the divergence from the teacher; needs a teacher unless 0.
        temperature: divides both networks' logits before the softmax of the divergence.
        vocabulary: the divergence is between distributions over token ids below this, which are
            real in both networks; padding is left out.
        divergence: kind of the divergence, see `training.losses.divergences`.
        top_k: the divergence is over this number of the teacher's likeliest tokens; None: over the
            full vocabulary.
        tail: whether all other tokens count as one, or are left out.
    """

    alpha: float = 1.0
    beta: float = 0.0
    temperature: float = 1.0
    vocabulary: int = 0
    divergence: DivergenceKind = "forward-kl"
    top_k: int | None = None
    tail: Tail = "bucket"
