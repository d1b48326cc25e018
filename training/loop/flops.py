"""FLOPs of training, counted as `evo.genome.cost` counts a forward pass."""

from __future__ import annotations

from evo.genome.cost import Architecture, forward_flops
from evo.genome.subnet import Widths


def training_flops(
    student: tuple[Architecture, Widths],
    teacher: tuple[Architecture, Widths] | None,
    sequence_length: int,
) -> int:
    """FLOPs per token of a training step.

    Three forward passes of the student, as the backward pass costs two (Kaplan et al. 2020,
    section 2.1), and one of the teacher, where there is one.

    Args:
        student: what is trained.
        teacher: what it is distilled from.
        sequence_length: tokens of a block.
    """
    flops = 3 * forward_flops(*student, sequence_length)
    if teacher is not None:
        flops += forward_flops(*teacher, sequence_length)
    return flops
