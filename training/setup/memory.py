"""The memory that training needs on each worker, and how networks are spread to fit in it."""

from __future__ import annotations

from dataclasses import dataclass

from evo.genome.cost import parameters, unit_costs
from evo.model.checkpoint import Checkpoint
from training.loop.parallel import Execution

STATES = 16
"""Bytes per parameter of the student: weights, gradient and AdamW's two moments, in float32
(Rajbhandari et al. 2020, section 3.1, without their half-precision copies)."""

SHARE = 0.8
"""Networks may take this share of the memory; the rest is for the loss's logits, communication, and
what the allocator cannot use."""


@dataclass(frozen=True)
class NetworkSizes:
    """The sizes of a network, in parameters.

    Attributes:
        parameters: parameters of the whole network.
        root: parameters outside the blocks.
        block: parameters of the largest block.
    """

    parameters: int
    root: int
    block: int

    @classmethod
    def of(cls, stored: Checkpoint) -> NetworkSizes:
        """The sizes of a checkpoint's network."""
        architecture, widths = stored.architecture, stored.widths
        unit = unit_costs(architecture, widths.channels)
        blocks = zip(widths.groups, widths.neurons, strict=True)
        largest = max(unit.layer + unit.group * g + unit.neuron * f for g, f in blocks)
        return cls(parameters(architecture, widths), int(unit.base), int(largest))

    @property
    def gathered(self) -> int:
        """Parameters of a sharded network that a worker holds at once: two blocks, and the root."""
        return self.root + 2 * self.block


@dataclass(frozen=True)
class MemoryDemand:
    """What a run asks of its workers' memory.

    Attributes:
        student: sizes of the student.
        teacher: sizes of a teacher that runs beside it; None without one.
        teacher_bytes: bytes of each of the teacher's parameters.
        activations: bytes that a micro-batch keeps for its backward pass.
        executions: the executions that the user allows, the one with the least communication
            first.
    """

    student: NetworkSizes
    teacher: NetworkSizes | None
    teacher_bytes: int
    activations: int
    executions: tuple[Execution, ...]

    def needed(self, execution: Execution, workers: int) -> int:
        """Bytes that an execution needs on each worker."""
        student, teacher = self.student, self.teacher
        total = float(self.activations)
        if execution.parallel == "ddp":
            total += STATES * student.parameters
        else:
            gradient = student.gathered if execution.reduce_each else student.parameters
            total += STATES * student.parameters / workers + 4 * (student.gathered + gradient)
        if teacher is not None:
            held: float = teacher.parameters
            if execution.shard_teacher:
                held = held / workers + teacher.gathered
            total += self.teacher_bytes * held
        return round(total)

    def choose(self, workers: int, memory: int) -> Execution:
        """The first execution that fits, or the one that comes nearest to it.

        The memory is that of each worker's device, in bytes.
        """
        fits = (e for e in self.executions if self.needed(e, workers) <= SHARE * memory)
        return next(fits, min(self.executions, key=lambda e: self.needed(e, workers)))
