"""The settings of a pretraining run in numbers, and the defaults that are functions of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import cos, pi, sqrt
from typing import Any, Literal

from training.losses.settings import LossSettings

DECAY = 0.1
"""The learning rate ends at this part of its peak."""

BLOCK_BYTES = 40
"""A block keeps this many bytes per token and channel for its backward pass."""

UNRECORDED = ("checkpoint_every", "log_blocks", "on_nan")
"""A run may go on with other values of these settings, so `settings.yaml` leaves them out."""


@dataclass(frozen=True)
class RunSettings:
    """A run's settings. Two runs of the same settings, weights and text give the same result.

    Attributes:
        init: start from the checkpoint's weights, or from random ones in its shape.
        steps: optimiser steps.
        batch: sequences in the global batch of a step.
        sequence_length: tokens of a sequence.
        micro_batch: sequences that run through a worker's model at once.
        learning_rate: the peak, reached after warm-up.
        warmup_steps: steps over which the learning rate rises from 0.
        schedule: how the learning rate falls: as a cosine, or linearly after a stable part (wsd).
        decay_steps: steps over which the learning rate falls, the last ones of the run.
        weight_decay: AdamW's, on matrices only.
        gradient_clip: the largest norm of the gradient.
        validate_every: steps from one validation to the next; 0: no validation.
        seed: seeds the order of the text, and random weights.
        precision: dtype of matrix products.
        device: kind of device.
        loss: how the loss's parts are weighted.
        flops_per_token: FLOPs of a training step per token.
        checkpoint_every: steps from one checkpoint to the next.
        log_blocks: whether each row of the log lists the step's blocks.
        on_nan: whether a step whose loss or gradient is not finite ends the run, or only its update
            is left out.
    """

    init: Literal["weights", "random"]
    steps: int
    batch: int
    sequence_length: int
    micro_batch: int
    learning_rate: float
    warmup_steps: int
    schedule: Literal["cosine", "wsd"]
    decay_steps: int
    weight_decay: float
    gradient_clip: float
    validate_every: int
    seed: int
    precision: Literal["float32", "bfloat16"]
    device: Literal["cpu", "cuda"]
    loss: LossSettings
    flops_per_token: int
    checkpoint_every: int
    log_blocks: bool
    on_nan: Literal["stop", "skip"]

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the global batch."""
        return self.batch * self.sequence_length

    @property
    def flops(self) -> int:
        """FLOPs of the whole run."""
        return self.steps * self.tokens_per_step * self.flops_per_token

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings on which the result depends, as plain values.

        A cosine is left out, as runs have nothing of it that were begun when there was no other.
        """
        left_out = UNRECORDED + (("schedule", "decay_steps") if self.schedule == "cosine" else ())
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0.

        It rises linearly in the warm-up, and falls to a tenth of the peak in the last steps. Until
        it falls it does not depend on the length of the run.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = max(0, step - (self.steps - self.decay_steps)) / max(1, self.decay_steps)
        left = (1 + cos(pi * progress)) / 2 if self.schedule == "cosine" else 1 - progress
        return self.learning_rate * (DECAY + (1 - DECAY) * left)

    def validates_after(self, step: int) -> bool:
        """Whether there is a validation after this number of steps."""
        return self.validate_every > 0 and (step % self.validate_every == 0 or step == self.steps)


def default_batch_tokens(tokens: int) -> int:
    """The tokens of a global batch, which grow with the square root of the run's tokens.

    The batch is the power of two below 4 sqrt(tokens), the exponent that Bergsma et al. 2025 fit
    for the best batch size, but at most a hundredth of the run, which then makes at least 100
    steps.
    """
    return min(2 ** int(4 * sqrt(tokens)).bit_length() // 2, max(1, tokens // 100))


def default_validation_tokens(tokens: int) -> int:
    """The validation tokens of a run that trains on this number of tokens."""
    return max(2**12, tokens // 50)


def default_learning_rate(parameters: int) -> float:
    """The peak learning rate for a network of this number of parameters, 2e-3 at most.

    It falls with the square root of the size through Pythia's own settings (Biderman et al. 2023,
    table 6): 1e-3 at 70M, 1.6e-4 at 2.8B.
    """
    return float(f"{min(2e-3, 1e-3 * sqrt(70e6 / parameters)):.2g}")


def default_micro_batch(batch: int, sequence_length: int, width: int, budget: int) -> int:
    """The number of sequences whose activations fit in a budget of memory.

    Args:
        batch: sequences of the global batch.
        sequence_length: tokens of a sequence.
        width: channels times layers.
        budget: bytes for the activations.
    """
    return max(1, min(batch, budget // (BLOCK_BYTES * width * sequence_length)))


def default_checkpoint_every(steps: int) -> int:
    """The steps between two checkpoints: a tenth of the run's, 1000 at most."""
    return min(1000, max(1, steps // 10))
