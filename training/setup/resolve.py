"""From what the user said to a run's settings: every default is filled in."""

from __future__ import annotations

from math import ceil
from typing import Literal

from evo.errors import UserError
from evo.genome.cost import parameters
from training.config import WARMUP, PretrainConfig
from training.loop.flops import training_flops
from training.loop.run_settings import (
    RunSettings,
    default_batch_tokens,
    default_checkpoint_every,
    default_learning_rate,
    default_micro_batch,
)
from training.losses.settings import LossSettings
from training.setup.inputs import Inputs
from training.teacher.stored_logits import TeacherLogits

ACTIVATION_BYTES = {"cpu": 2**29, "cuda": 8 * 2**30}
"""Memory that a micro-batch's activations may take where no size is given."""


def resolve(config: PretrainConfig, inputs: Inputs, device: Literal["cpu", "cuda"]) -> RunSettings:
    """The settings of a run in numbers.

    Args:
        config: the settings that the user has given.
        inputs: what the run reads.
        device: kind of device.

    Raises:
        UserError: the stored logits have fewer tokens than `--top-k`, or the warm-up has no end.
    """
    student, length = inputs.student, inputs.text.sequence_length
    batch = max(1, (config.batch_tokens or default_batch_tokens(config.tokens)) // length)
    steps = ceil(config.tokens / (batch * length))
    width = student.widths.channels * student.widths.layers
    warmup = WARMUP if config.warmup is None else config.warmup
    warmup_steps = int(warmup) if warmup >= 1 else round(warmup * steps)
    if warmup_steps >= steps:
        raise UserError(f"--warmup {warmup_steps}: the run has only {steps} steps")
    decay_steps = steps - warmup_steps
    if config.schedule == "wsd":
        decay_steps = min(decay_steps, max(1, round(config.decay * steps)))
    validate_every = config.validate_every or max(1, steps // 20)
    return RunSettings(
        init=config.init,
        steps=steps,
        batch=batch,
        sequence_length=length,
        micro_batch=config.micro_batch
        or default_micro_batch(batch, length, width, ACTIVATION_BYTES[device]),
        learning_rate=config.learning_rate
        or default_learning_rate(parameters(student.architecture, student.widths)),
        warmup_steps=warmup_steps,
        schedule=config.schedule,
        decay_steps=decay_steps,
        weight_decay=config.weight_decay,
        gradient_clip=config.gradient_clip,
        validate_every=0 if inputs.validation is None else validate_every,
        seed=config.seed,
        precision=config.precision or ("bfloat16" if device == "cuda" else "float32"),
        device=device,
        loss=_loss(config, inputs),
        flops_per_token=training_flops(student, inputs.running_teacher, length),
        checkpoint_every=config.checkpoint_every or default_checkpoint_every(steps),
        log_blocks=config.log_blocks,
        on_nan=config.on_nan,
    )


def _loss(config: PretrainConfig, inputs: Inputs) -> LossSettings:
    teacher = inputs.teacher
    if teacher is None:
        return LossSettings()
    if isinstance(teacher, TeacherLogits):
        vocabulary = teacher.settings.vocabulary
        top_k: int | None = config.top_k or teacher.settings.top_k
        if config.top_k is not None and config.top_k > teacher.settings.top_k:
            raise UserError(
                f"--top-k {config.top_k} is more than the {teacher.settings.top_k} tokens that "
                f"{teacher.directory} keeps"
            )
    else:
        vocabulary = min(inputs.student.vocabulary, teacher.vocabulary)
        top_k = None if config.top_k is None or config.top_k >= vocabulary else config.top_k
    return LossSettings(
        alpha=config.alpha,
        beta=config.beta,
        temperature=config.temperature,
        vocabulary=vocabulary,
        divergence=config.divergence,
        top_k=top_k,
        tail=config.tail,
    )
