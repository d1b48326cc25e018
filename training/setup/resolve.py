"""From what the user said to what a run will do: every default filled in."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from evo.errors import UserError
from evo.genome.cost import parameters
from training.config import PretrainConfig
from training.loop.flops import training_flops
from training.loop.parallel import Execution
from training.loop.plan import (
    BLOCK_BYTES,
    Plan,
    default_batch_tokens,
    default_learning_rate,
    default_micro_batch,
    steps_of,
)
from training.losses.settings import LossSettings
from training.setup.inputs import Inputs
from training.setup.memory import Demand, Network

ACTIVATION_BYTES = {"cpu": 2**29, "cuda": 8 * 2**30}
"""Memory that a micro-batch's activations may take where no size is given."""


def make_plan(config: PretrainConfig, inputs: Inputs, device: Literal["cpu", "cuda"]) -> Plan:
    """The settings in numbers.

    Args:
        config: as given by the user.
        inputs: what is trained on what.
        device: kind of device.
    """
    student, teacher, length = inputs.student, inputs.teacher, inputs.sequence_length
    batch = max(1, (config.batch_tokens or default_batch_tokens(config.tokens)) // length)
    steps = steps_of(config.tokens, batch * length)
    size = parameters(student.architecture, student.widths)
    width = student.widths.channels * student.widths.layers
    loss = LossSettings()
    kept = inputs.teacher_logits
    runs = teacher if kept is None else None
    if kept is not None or teacher is not None:
        common = _common_vocabulary(inputs)
        loss = LossSettings(
            alpha=config.alpha,
            beta=config.beta,
            temperature=config.temperature,
            vocabulary=common,
            divergence=config.divergence,
            top_k=_top_k(config, inputs, common),
            tail=config.tail,
        )
    return Plan(
        init=config.init,
        steps=steps,
        batch=batch,
        sequence_length=length,
        micro_batch=config.micro_batch
        or default_micro_batch(batch, length, width, ACTIVATION_BYTES[device]),
        learning_rate=config.learning_rate or default_learning_rate(size),
        warmup_steps=round(config.warmup * steps),
        weight_decay=config.weight_decay,
        gradient_clip=config.gradient_clip,
        validate_every=0
        if inputs.validation is None
        else config.validate_every or max(1, steps // 20),
        seed=config.seed,
        precision=config.precision or ("bfloat16" if device == "cuda" else "float32"),
        device=device,
        loss=loss,
        flops_per_token=training_flops(
            (student.architecture, student.widths),
            None if runs is None else (runs.architecture, runs.widths),
            length,
        ),
    )


def _common_vocabulary(inputs: Inputs) -> int:
    """Token ids below this are real for the student and for the teacher."""
    if inputs.teacher_logits is not None:
        return inputs.teacher_logits.settings.vocabulary
    assert inputs.teacher is not None
    return min(inputs.student.vocabulary, inputs.teacher.vocabulary)


def _top_k(config: PretrainConfig, inputs: Inputs, common: int) -> int | None:
    if inputs.teacher_logits is None:
        return None if config.top_k is None or config.top_k >= common else config.top_k
    kept = inputs.teacher_logits.settings.top_k
    if config.top_k is not None and config.top_k > kept:
        raise UserError(
            f"--top-k {config.top_k} is more than the {kept} tokens that "
            f"{inputs.teacher_logits.directory} keeps"
        )
    return config.top_k or kept


def demand_of(config: PretrainConfig, inputs: Inputs, plan: Plan) -> Demand:
    """What the run asks of its workers' memory, and how the user lets it be shared.

    Args:
        config: as given by the user.
        inputs: what is trained on what.
        plan: of the run.
    """
    student = inputs.student
    teacher = inputs.teacher if inputs.teacher_logits is None else None
    channels, layers = student.widths.channels, student.widths.layers
    kept = BLOCK_BYTES * channels * layers
    if config.activation_checkpointing:  # the blocks' inputs in float32, and all of one block
        kept = 4 * channels * layers + BLOCK_BYTES * channels
    sharded = [False, True] if config.shard_teacher is None else [config.shard_teacher]
    spreads: dict[str, list[tuple[Literal["ddp", "fsdp"], bool]]] = {
        "ddp": [("ddp", False)],
        "fsdp": [("fsdp", False), ("fsdp", True)],
    }
    wanted = ["ddp", "fsdp"] if config.parallel == "auto" else [config.parallel]
    return Demand(
        student=Network.of(student.architecture, student.widths),
        teacher=None if teacher is None else Network.of(teacher.architecture, teacher.widths),
        teacher_bytes=2 if plan.precision == "bfloat16" else 4,
        activations=plan.micro_batch * plan.sequence_length * kept,
        executions=tuple(
            Execution(parallel, shard, each, config.activation_checkpointing, config.compile)
            for shard in (sharded if teacher is not None else [False])
            for name in wanted
            for parallel, each in spreads[name]
        ),
    )


def settings_of(config: PretrainConfig, inputs: Inputs, plan: Plan) -> dict[str, Any]:
    """All that the result depends on, as plain values."""
    teacher, validation, kept = inputs.teacher, inputs.validation, inputs.teacher_logits
    teacher_hash = None if teacher is None else teacher.hash
    return {
        "model": str(config.model),
        "model_hash": inputs.student.hash,
        "teacher": None if teacher is None else str(config.teacher),
        "teacher_hash": teacher_hash if kept is None else kept.settings.teacher_hash,
        "teacher_logits": None if kept is None else str(config.teacher_logits),
        "teacher_logits_hash": None if kept is None else kept.hash,
        "teacher_logits_flops": None if kept is None else kept.settings.flops,
        "text": config.sources,
        "text_hash": inputs.text.hash,
        "text_tokens": inputs.text.tokens,
        "text_shares": list(inputs.text.shares),
        "validation_text": config.validation_text,
        "validation_hash": None if validation is None else validation.hash,
        "validation_tokens": None if validation is None else validation.tokens,
        **asdict(plan),
    }
