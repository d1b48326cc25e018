"""The training loss: cross-entropy, and a divergence from a teacher.

With a large vocabulary the logits of a micro-batch, and their gradient, would fill the memory. So
the head runs over chunks of positions, and each chunk's gradients to the hidden states and to the
head are taken at once, in the forward pass; the backward pass only scales them (the way of the
fused linear cross-entropy in Liger Kernel, Hsu et al. 2024).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from evo.model.litgpt import GPT
from training.losses.divergences import TopK, divergence, top_k_of
from training.losses.settings import LossSettings

CHUNK_BYTES = 64 * 2**20
"""Size of a chunk of float32 logits on CPU."""

CHUNK_BYTES_CUDA = 512 * 2**20


class Head(NamedTuple):
    """An output head, as `head_of` takes it from a network.

    Attributes:
        weight: shape [V, channels].
        bias: shape [V], or None.
        softcapping: logits are `softcapping * tanh(logits / softcapping)`, or None.
    """

    weight: Tensor
    bias: Tensor | None
    softcapping: float | None


def head_of(model: GPT) -> Head:
    """The output head of a network."""
    return Head(model.lm_head.weight, model.lm_head.bias, model.config.final_logit_softcapping)


class TeacherStates(NamedTuple):
    """A teacher that is run beside the student.

    Attributes:
        hidden: what its head sees, shape [positions, teacher's channels].
        head: its padded vocabulary may differ from the student's.
    """

    hidden: Tensor
    head: Head


Teacher = TeacherStates | TopK
"""A teacher as the loss sees it: its hidden states and head, or its likeliest tokens."""


class Losses(NamedTuple):
    """Sums over target tokens, in nats; only `total` has a gradient.

    Attributes:
        total: what is minimised.
        cross_entropy: before it is weighted by alpha.
        divergence: before it is weighted by beta and temperature; 0 without a teacher.
    """

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor


def summed_losses(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    settings: LossSettings,
    teacher: Teacher | None = None,
) -> Losses:
    """The loss of a micro-batch, summed over its target tokens.

    Matrix products are in autocast's dtype where that is on, all else in float32 (in float64 where
    the hidden states are).

    Args:
        hidden: what the student's head sees, shape [positions, channels].
        head: the student's.
        targets: token ids, shape [positions].
        settings: how the parts are weighted, and which divergence.
        teacher: at the same positions.
    """
    dtype = product_dtype(hidden)
    return Losses(
        *_ChunkedLoss.apply(
            hidden, head.weight, head.bias, head.softcapping, targets, settings, dtype, teacher
        )
    )


def product_dtype(hidden: Tensor) -> torch.dtype:
    """The dtype of matrix products: autocast's where that is on, else the hidden states'."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def logits_of(hidden: Tensor, head: Head) -> Tensor:
    """Logits of some positions, at least float32, shape [positions, V].

    Args:
        hidden: what the head sees, shape [positions, channels].
        head: of the same dtype.
    """
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if head.softcapping is not None:
        logits = torch.tanh(logits / head.softcapping) * head.softcapping
    return logits


def rows_per_chunk(head: Head, positions: int) -> int:
    """Positions whose float32 logits are held at once."""
    limit = CHUNK_BYTES_CUDA if head.weight.is_cuda else CHUNK_BYTES
    return max(1, min(positions, limit // (4 * len(head.weight))))


def _chunk_loss(
    logits: Tensor, targets: Tensor, settings: LossSettings, teacher: Tensor | TopK | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, divergence, and the gradient of the whole loss to the logits.

    Args:
        logits: the student's, shape [positions, V].
        targets: shape [positions].
        settings: of the loss.
        teacher: its logits, shape [positions, teacher's V], overwritten; or its top k.
    """
    log_probability = torch.log_softmax(logits, dim=1)
    cross_entropy = -log_probability.gather(1, targets[:, None]).sum()
    if isinstance(teacher, TopK):
        gradient, value = _top_k_loss(log_probability, settings, teacher)
    else:
        gradient = log_probability.exp_()
        if settings.alpha != 1:
            gradient *= settings.alpha
        value = cross_entropy.new_zeros(())
        if teacher is not None:
            size, temperature = settings.vocabulary, settings.temperature
            value, to_student = divergence(
                settings.divergence,
                torch.log_softmax(teacher[:, :size] / temperature, dim=1),
                torch.log_softmax(logits[:, :size] / temperature, dim=1),
            )
            gradient[:, :size].add_(to_student, alpha=settings.beta * temperature)
    ones = gradient.new_full((len(targets), 1), settings.alpha)
    gradient.scatter_add_(1, targets[:, None], -ones)
    return cross_entropy, value, gradient


def _top_k_loss(
    log_probability: Tensor, settings: LossSettings, teacher: TopK
) -> tuple[Tensor, Tensor]:
    """The gradient of the cross-entropy (but for the targets) and the divergence, and the latter.

    The gradient of the outcome that stands for all other tokens is shared out by their
    probabilities. The vocabulary is then gone through once more than for the cross-entropy alone,
    for their sum.

    Args:
        log_probability: the student's, shape [positions, V]; overwritten.
        settings: of the loss.
        teacher: at the same positions.
    """
    ids, temperature = teacher.ids.long(), settings.temperature
    own, theirs = log_probability.gather(1, ids), teacher.log_probability
    kept = own.exp()
    probability = log_probability.exp_()
    real = probability[:, : settings.vocabulary]
    share = None
    if settings.tail == "bucket":
        probability.scatter_(1, ids, 0.0)
        rest = real.sum(1, keepdim=True).clamp_min_(torch.finfo(real.dtype).tiny)
        own, theirs = (
            torch.cat([own, rest.log()], 1),
            torch.cat([theirs, teacher.log_rest[:, None]], 1),
        )
        share = 1 / rest
    value, to_outcomes = divergence(
        settings.divergence,
        torch.log_softmax(theirs / temperature, dim=1),
        torch.log_softmax(own / temperature, dim=1),
    )
    to_outcomes *= settings.beta * temperature
    if share is None:
        probability *= settings.alpha
    else:
        real *= settings.alpha + to_outcomes[:, -1:] * share
        probability[:, settings.vocabulary :] *= settings.alpha
    probability.scatter_(1, ids, settings.alpha * kept + to_outcomes[:, : ids.size(1)])
    return probability, value


def _teacher_chunk(
    teacher: Teacher, part: slice, settings: LossSettings, dtype: torch.dtype
) -> Tensor | TopK:
    """The teacher at a chunk's positions; a running teacher's head is cast to `dtype` already."""
    if isinstance(teacher, TopK):
        stored, top_k = teacher.part(part), settings.top_k
        return stored if top_k in (None, stored.ids.size(1)) else stored.cut(top_k)
    logits = logits_of(teacher.hidden[part].to(dtype), teacher.head)
    if settings.top_k is None:
        return logits
    return top_k_of(logits[:, : settings.vocabulary], settings.top_k)


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        softcapping: float | None,
        targets: Tensor,
        settings: LossSettings,
        dtype: torch.dtype,
        teacher: Teacher | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            head = cast(Head(weight, bias, softcapping), dtype)
            if isinstance(teacher, TeacherStates):
                teacher = TeacherStates(teacher.hidden, cast(teacher.head, dtype))
            chunk = rows_per_chunk(head, len(hidden))
            to_hidden = torch.empty_like(hidden)
            to_weight = torch.zeros_like(weight, dtype=wide)
            to_bias = None if bias is None else torch.zeros_like(bias, dtype=wide)
            sums = hidden.new_zeros(2, dtype=torch.float64)
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                rows = hidden[part].to(dtype)
                logits = logits_of(rows, head)
                theirs = None if teacher is None else _teacher_chunk(teacher, part, settings, dtype)
                *values, gradient = _chunk_loss(logits, targets[part], settings, theirs)
                sums += torch.stack(values)
                if softcapping is not None:
                    gradient *= 1 - (logits / softcapping) ** 2
                if to_bias is not None:
                    to_bias += gradient.sum(0)
                gradient = gradient.to(dtype)
                to_hidden[part] = gradient @ head.weight
                if dtype == wide:
                    torch.addmm(to_weight, gradient.t(), rows, out=to_weight)
                else:
                    to_weight += gradient.t() @ rows
        if bias is not None and to_bias is not None:
            to_bias = to_bias.to(bias.dtype)
        ctx.save_for_backward(to_hidden, to_weight.to(weight.dtype), to_bias)
        cross_entropy, value = sums.to(wide)
        total = settings.alpha * cross_entropy
        if teacher is not None:
            total = total + settings.beta * settings.temperature**2 * value
        ctx.mark_non_differentiable(cross_entropy, value)
        return total, cross_entropy, value

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden, to_weight, to_bias = ctx.saved_tensors
        return (
            to_hidden * scale,
            to_weight * scale,
            None if to_bias is None else to_bias * scale,
            *(None,) * 5,
        )


def cast(head: Head, dtype: torch.dtype) -> Head:
    """A head in another dtype."""
    bias = None if head.bias is None else head.bias.to(dtype)
    return Head(head.weight.to(dtype), bias, head.softcapping)
