"""FLOPs of training, counted as `evo.genome.cost` counts a forward pass."""

from __future__ import annotations

from evo.genome.cost import forward_flops
from evo.model.checkpoint import Checkpoint


def training_flops(student: Checkpoint, teacher: Checkpoint | None, sequence_length: int) -> int:
    """FLOPs per token of a training step.

    They are those of three forward passes of the student, as the backward pass costs two (Kaplan
    et al. 2020, section 2.1), and of one of a teacher that runs beside it.
    """
    flops = 3 * forward_flops(student.architecture, student.widths, sequence_length)
    if teacher is not None:
        flops += forward_flops(teacher.architecture, teacher.widths, sequence_length)
    return flops
