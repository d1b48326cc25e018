"""The training loss: cross-entropy, and forward KL divergence from a teacher.

With a large vocabulary the logits of a micro-batch, and their gradient, would fill the memory. So
the head runs over chunks of positions, and each chunk's gradients to the hidden states and to the
head are taken at once, in the forward pass; the backward pass only scales them (the way of the
fused linear cross-entropy in Liger Kernel, Hsu et al. 2024).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from litgpt.model import GPT
from torch import Tensor

from training.plan import LossSettings

CHUNK_BYTES = 16 * 2**20
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


class Losses(NamedTuple):
    """Sums over target tokens, in nats; only `total` has a gradient.

    Attributes:
        total: what is minimised.
        cross_entropy: before it is weighted by alpha.
        divergence: the KL divergence, before it is weighted by beta and temperature; 0 without a
            teacher.
    """

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor


def summed_losses(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    settings: LossSettings,
    teacher_hidden: Tensor | None = None,
    teacher_head: Head | None = None,
) -> Losses:
    """The loss of a micro-batch, summed over its target tokens.

    Matrix products are in autocast's dtype where that is on, all else in float32.

    Args:
        hidden: what the student's head sees, shape [positions, channels].
        head: the student's.
        targets: token ids, shape [positions].
        settings: how the parts are weighted.
        teacher_hidden: what the teacher's head sees, shape [positions, teacher's channels].
        teacher_head: the teacher's; its padded vocabulary may differ from the student's.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return Losses(
        *_ChunkedLoss.apply(
            hidden,
            head.weight,
            head.bias,
            head.softcapping,
            targets,
            settings,
            dtype,
            teacher_hidden,
            teacher_head,
        )
    )


def _logits(hidden: Tensor, head: Head) -> Tensor:
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    if head.softcapping is not None:
        logits = torch.tanh(logits / head.softcapping) * head.softcapping
    return logits


def _chunk_loss(
    logits: Tensor, targets: Tensor, settings: LossSettings, teacher_logits: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, KL divergence, and the gradient of the whole loss to the logits."""
    log_normaliser = torch.logsumexp(logits, dim=1, keepdim=True)
    cross_entropy = (log_normaliser - logits.gather(1, targets[:, None])).sum()
    gradient = torch.exp(logits - log_normaliser)
    gradient.scatter_add_(1, targets[:, None], gradient.new_full((len(targets), 1), -1.0))
    gradient *= settings.alpha
    if teacher_logits is None:
        return cross_entropy, cross_entropy.new_zeros(()), gradient
    size, temperature = settings.vocabulary, settings.temperature
    student = torch.log_softmax(logits[:, :size] / temperature, dim=1)
    teacher = torch.log_softmax(teacher_logits[:, :size] / temperature, dim=1)
    probability = teacher.exp()
    divergence = (probability * (teacher - student)).sum()
    gradient[:, :size] += settings.beta * temperature * (student.exp_() - probability)
    return cross_entropy, divergence, gradient


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
        teacher_hidden: Tensor | None,
        teacher_head: Head | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            head = _cast(Head(weight, bias, softcapping), dtype)
            teacher_head = None if teacher_head is None else _cast(teacher_head, dtype)
            limit = CHUNK_BYTES_CUDA if hidden.is_cuda else CHUNK_BYTES
            chunk = max(1, min(len(hidden), limit // (4 * len(weight))))
            to_hidden = torch.empty_like(hidden)
            to_weight = torch.zeros_like(weight, dtype=torch.float32)
            to_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)
            sums = hidden.new_zeros(2, dtype=torch.float64)
            for start in range(0, len(hidden), chunk):
                part = slice(start, start + chunk)
                rows = hidden[part].to(dtype)
                logits = _logits(rows, head)
                teacher_logits = None
                if teacher_hidden is not None and teacher_head is not None:
                    teacher_logits = _logits(teacher_hidden[part].to(dtype), teacher_head)
                *values, gradient = _chunk_loss(logits, targets[part], settings, teacher_logits)
                sums += torch.stack(values)
                if softcapping is not None:
                    gradient *= 1 - (logits / softcapping) ** 2
                if to_bias is not None:
                    to_bias += gradient.sum(0)
                gradient = gradient.to(dtype)
                to_hidden[part] = gradient @ head.weight
                to_weight += gradient.t() @ rows
        if bias is not None and to_bias is not None:
            to_bias = to_bias.to(bias.dtype)
        ctx.save_for_backward(to_hidden, to_weight.to(weight.dtype), to_bias)
        cross_entropy, divergence = sums.float()
        total = settings.alpha * cross_entropy
        if teacher_hidden is not None:
            total = total + settings.beta * settings.temperature**2 * divergence
        ctx.mark_non_differentiable(cross_entropy, divergence)
        return total, cross_entropy, divergence

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden, to_weight, to_bias = ctx.saved_tensors
        return (
            to_hidden * scale,
            to_weight * scale,
            None if to_bias is None else to_bias * scale,
            *(None,) * 6,
        )


def _cast(head: Head, dtype: torch.dtype) -> Head:
    bias = None if head.bias is None else head.bias.to(dtype)
    return Head(head.weight.to(dtype), bias, head.softcapping)
