"""What a pretraining run will do, in numbers: the settings with every default filled in."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, pi, sqrt
from typing import Literal

from training.losses.settings import LossSettings

DECAY = 0.1
"""The learning rate ends at this part of its peak."""

BLOCK_BYTES = 40
"""What a block keeps for its backward pass, for each token and channel."""


@dataclass(frozen=True)
class Plan:
    """A run's settings. Two runs of one plan on the same weights and text give the same result.

    Attributes:
        init: start from the checkpoint's weights, or from random ones in its shape.
        steps: optimiser steps.
        batch: sequences in the global batch of a step.
        sequence_length: tokens of a sequence.
        micro_batch: sequences that run through a worker's model at once.
        learning_rate: the peak, reached after warm-up.
        warmup_steps: over which the learning rate rises from 0.
        weight_decay: AdamW's, on matrices only.
        gradient_clip: the largest norm of the gradient.
        validate_every: steps from one validation to the next; 0: no validation.
        seed: of the order of the text, and of random weights.
        precision: of matrix products.
        device: kind of device.
        loss: how its parts are weighted.
        flops_per_token: of a training step.
    """

    init: Literal["weights", "random"]
    steps: int
    batch: int
    sequence_length: int
    micro_batch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    gradient_clip: float
    validate_every: int
    seed: int
    precision: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    loss: LossSettings
    flops_per_token: int

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the global batch."""
        return self.batch * self.sequence_length

    def learning_rate_at(self, step: int) -> float:
        """Of a step, counted from 0: linear warm-up, then a cosine down to a tenth of the peak."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (DECAY + (1 - DECAY) * (1 + cos(pi * progress)) / 2)

    def validates_after(self, step: int) -> bool:
        """Whether there is a validation once so many steps are done."""
        return self.validate_every > 0 and (step % self.validate_every == 0 or step == self.steps)


def default_batch_tokens(tokens: int) -> int:
    """A global batch that grows with the square root of the run's tokens.

    The power of two below 4 sqrt(tokens), the exponent that Bergsma et al. 2025 fit for the best
    batch size, but at most a hundredth of the run, so that it makes at least 100 steps.
    """
    return min(2 ** int(4 * sqrt(tokens)).bit_length() // 2, max(1, tokens // 100))


def default_validation_tokens(tokens: int) -> int:
    """The validation tokens of a run that trains on this number of tokens."""
    return max(2**12, tokens // 50)


def default_learning_rate(parameters: int) -> float:
    """The peak learning rate for a network of so many parameters, 2e-3 at most.

    Falls with the square root of the size through Pythia's own settings (Biderman et al. 2023,
    table 6): 1e-3 at 70M, 1.6e-4 at 2.8B.
    """
    return float(f"{min(2e-3, 1e-3 * sqrt(70e6 / parameters)):.2g}")


def default_micro_batch(batch: int, sequence_length: int, width: int, budget: int) -> int:
    """As many sequences as keep their activations within a budget of memory.

    Args:
        batch: sequences of the global batch.
        sequence_length: tokens of a sequence.
        width: channels times layers.
        budget: in bytes.
    """
    return max(1, min(batch, budget // (BLOCK_BYTES * width * sequence_length)))


def steps_of(tokens: int, tokens_per_step: int) -> int:
    """Whole steps that read at least so many tokens."""
    return ceil(tokens / tokens_per_step)
