from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from training import losses
from training.losses import Head, summed_losses
from training.plan import LossSettings

POSITIONS, CHANNELS, REAL = 37, 12, 50


def make(vocabulary: int, channels: int, *, bias: bool, softcapping: float | None, seed: int):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(POSITIONS, channels, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, channels, generator=generator, requires_grad=True)
    offset = torch.randn(vocabulary, generator=generator, requires_grad=True) if bias else None
    return hidden, Head(weight, offset, softcapping)


def logits_of(hidden, head):
    logits = functional.linear(hidden, head.weight, head.bias)
    return (
        logits
        if head.softcapping is None
        else head.softcapping * torch.tanh(logits / head.softcapping)
    )


def naive(hidden, head, targets, settings, teacher_hidden=None, teacher_head=None):
    logits = logits_of(hidden, head)
    cross_entropy = functional.cross_entropy(logits, targets, reduction="sum")
    if teacher_hidden is None:
        return settings.alpha * cross_entropy, cross_entropy, torch.zeros(())
    size, temperature = settings.vocabulary, settings.temperature
    divergence = functional.kl_div(
        functional.log_softmax(logits[:, :size] / temperature, 1),
        functional.log_softmax(logits_of(teacher_hidden, teacher_head)[:, :size] / temperature, 1),
        log_target=True,
        reduction="sum",
    )
    total = settings.alpha * cross_entropy + settings.beta * temperature**2 * divergence
    return total, cross_entropy, divergence


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one shorter than the others."""
    monkeypatch.setattr(losses, "CHUNK_BYTES", 8 * 4 * 64)


@pytest.mark.parametrize("distil", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcapping", [None, 5.0])
@pytest.mark.parametrize("padded", [(64, 56), (56, 64), (50, 50)])
def test_equals_the_plain_formula(distil, bias, softcapping, padded) -> None:
    hidden, head = make(padded[0], CHANNELS, bias=bias, softcapping=softcapping, seed=0)
    teacher_hidden, teacher_head = make(padded[1], 20, bias=bias, softcapping=None, seed=1)
    targets = torch.randint(REAL, (POSITIONS,), generator=torch.Generator().manual_seed(2))
    settings = LossSettings(0.2, 0.8, 0.9, REAL) if distil else LossSettings()
    taught = (
        (
            teacher_hidden.detach(),
            Head(*(t.detach() if isinstance(t, torch.Tensor) else t for t in teacher_head)),
        )
        if distil
        else ()
    )
    inputs = [t for t in (hidden, head.weight, head.bias) if t is not None]

    expected = naive(hidden, head, targets, settings, *taught)
    expected_gradients = torch.autograd.grad(expected[0] * 0.37, inputs)
    found = summed_losses(hidden, head, targets, settings, *taught)
    gradients = torch.autograd.grad(found.total * 0.37, inputs)

    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_student_that_is_its_teacher_has_no_divergence() -> None:
    hidden, head = make(64, CHANNELS, bias=False, softcapping=None, seed=0)
    targets = torch.zeros(POSITIONS, dtype=torch.int64)
    found = summed_losses(
        hidden,
        head,
        targets,
        LossSettings(0.0, 1.0, 0.9, REAL),
        hidden.detach(),
        Head(head.weight.detach(), None, None),
    )
    found.total.backward()
    assert abs(found.divergence.item()) < 1e-4
    assert hidden.grad.abs().max() < 1e-4


def test_autocast_computes_products_in_bfloat16() -> None:
    hidden, head = make(64, CHANNELS, bias=False, softcapping=None, seed=0)
    targets = torch.randint(REAL, (POSITIONS,), generator=torch.Generator().manual_seed(2))
    exact = summed_losses(hidden, head, targets, LossSettings())
    (exact_gradient,) = torch.autograd.grad(exact.total, head.weight)
    with torch.autocast("cpu", torch.bfloat16):
        found = summed_losses(hidden, head, targets, LossSettings())
    (gradient,) = torch.autograd.grad(found.total, head.weight)
    assert gradient.dtype == torch.float32
    assert found.total != exact.total
    torch.testing.assert_close(found.total, exact.total, rtol=1e-2, atol=0)
    assert (gradient - exact_gradient).norm() < 0.02 * exact_gradient.norm()


def test_tied_weights_get_the_gradient_of_both_uses() -> None:
    embedding = torch.randn(
        64, CHANNELS, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    tokens = torch.randint(REAL, (POSITIONS + 1,), generator=torch.Generator().manual_seed(1))
    for chunked in (True, False):
        hidden = functional.embedding(tokens[:-1], embedding)
        head = Head(embedding, None, None)
        loss = (summed_losses if chunked else naive)(hidden, head, tokens[1:], LossSettings())[0]
        (gradient,) = torch.autograd.grad(loss, embedding)
        if chunked:
            found = gradient
    torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)
