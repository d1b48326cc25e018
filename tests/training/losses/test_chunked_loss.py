from __future__ import annotations

from itertools import product
from math import log
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from training.losses import chunked_loss
from training.losses.chunked_loss import Head, TeacherStates, summed_losses
from training.losses.divergences import divergence, top_k_of
from training.losses.settings import DivergenceKind, LossSettings, Tail

POSITIONS, CHANNELS, REAL = 37, 12, 50
KINDS = get_args(DivergenceKind)
TAILS = get_args(Tail)


def make(vocabulary: int, channels: int, *, bias: bool, softcapping: float | None, seed: int):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(POSITIONS, channels, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, channels, generator=generator, requires_grad=True)
    offset = torch.randn(vocabulary, generator=generator, requires_grad=True) if bias else None
    return hidden, Head(weight, offset, softcapping)


def frozen(hidden: Tensor, head: Head) -> TeacherStates:
    parts = (t.detach() if isinstance(t, Tensor) else t for t in head)
    return TeacherStates(hidden.detach(), Head(*parts))


def logits_of(hidden, head):
    logits = functional.linear(hidden, head.weight, head.bias)
    return (
        logits
        if head.softcapping is None
        else head.softcapping * torch.tanh(logits / head.softcapping)
    )


def plain_divergence(kind: str, p: Tensor, q: Tensor) -> Tensor:
    """From the definitions, of two lists of log-probabilities."""

    def kl(one: Tensor, other: Tensor) -> Tensor:
        return functional.kl_div(other, one, log_target=True, reduction="sum")

    mixture = ((p.exp() + q.exp()) / 2).log()
    return {
        "forward-kl": lambda: kl(p, q),
        "reverse-kl": lambda: kl(q, p),
        "symmetric-kl": lambda: (kl(p, q) + kl(q, p)) / 2,
        "jensen-shannon": lambda: (kl(p, mixture) + kl(q, mixture)) / 2,
    }[kind]()


def outcomes(logits: Tensor, chosen: Tensor | None, settings: LossSettings) -> Tensor:
    """Log-probabilities of what the divergence distinguishes, at its temperature."""
    own = functional.log_softmax(logits[:, : settings.vocabulary], 1)
    if chosen is not None:
        others = torch.ones_like(own).scatter(1, chosen, 0.0).bool()
        rest = own.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
        own = own.gather(1, chosen)
        own = torch.cat([own, rest], 1) if settings.tail == "bucket" else own
    return functional.log_softmax(own / settings.temperature, 1)


def naive(hidden, head, targets, settings, teacher: TeacherStates | None = None):
    """All logits of both networks at once, and autograd."""
    logits = logits_of(hidden, head)
    cross_entropy = functional.cross_entropy(logits, targets, reduction="sum")
    if teacher is None:
        return settings.alpha * cross_entropy, cross_entropy, torch.zeros(())
    theirs = logits_of(*teacher)
    chosen = None
    if settings.top_k is not None:
        chosen = theirs[:, : settings.vocabulary].argsort(1, descending=True)[:, : settings.top_k]
    value = plain_divergence(
        settings.divergence, outcomes(theirs, chosen, settings), outcomes(logits, chosen, settings)
    )
    total = settings.alpha * cross_entropy + settings.beta * settings.temperature**2 * value
    return total, cross_entropy, value


def assert_equal_with_gradients(hidden, head, targets, settings, taught=None) -> None:
    inputs = [t for t in (hidden, head.weight, head.bias) if t is not None]
    expected = naive(hidden, head, targets, settings, taught)
    expected_gradients = torch.autograd.grad(expected[0] * 0.37, inputs)
    found = summed_losses(hidden, head, targets, settings, taught)
    gradients = torch.autograd.grad(found.total * 0.37, inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one shorter than the others."""
    monkeypatch.setattr(chunked_loss, "CHUNK_BYTES", 8 * 4 * 64)


@pytest.fixture
def targets() -> Tensor:
    return torch.randint(REAL, (POSITIONS,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("distil", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("softcapping", [None, 5.0])
@pytest.mark.parametrize("padded", [(64, 56), (56, 64), (50, 50)])
def test_equals_the_plain_formula(distil, bias, softcapping, padded, targets) -> None:
    hidden, head = make(padded[0], CHANNELS, bias=bias, softcapping=softcapping, seed=0)
    taught = frozen(*make(padded[1], 20, bias=bias, softcapping=None, seed=1))
    settings = LossSettings(0.2, 0.8, 0.9, REAL) if distil else LossSettings()
    assert_equal_with_gradients(hidden, head, targets, settings, taught if distil else None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), [(None, "bucket"), *product((1, 7, 49), TAILS)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_every_divergence_equals_its_definition(kind, top_k, tail, temperature, targets) -> None:
    hidden, head = make(64, CHANNELS, bias=True, softcapping=5.0, seed=0)
    taught = frozen(*make(56, 20, bias=False, softcapping=None, seed=1))
    settings = LossSettings(0.2, 0.8, temperature, REAL, kind, top_k, tail)
    assert_equal_with_gradients(hidden, head, targets, settings, taught)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("top_k", "tail"), [(None, "bucket"), *product((3,), TAILS)])
def test_gradients_by_finite_differences(kind, top_k, tail, monkeypatch) -> None:
    monkeypatch.setattr(chunked_loss, "CHUNK_BYTES", 2 * 4 * 14)
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    targets = torch.tensor([0, 3, 11, 5, 3])
    taught = TeacherStates(random(5, 6), Head(random(12, 6), None, None))
    settings = LossSettings(0.3, 0.7, 1.7, 11, kind, top_k, tail)

    def total(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return summed_losses(hidden, Head(weight, bias, 2.0), targets, settings, taught).total

    inputs = [random(*shape).requires_grad_() for shape in ((5, 4), (14, 4), (14,))]
    assert torch.autograd.gradcheck(total, inputs, eps=1e-6, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [None, 7])
def test_a_student_that_is_its_teacher_has_no_divergence(kind, top_k) -> None:
    hidden, head = make(64, CHANNELS, bias=False, softcapping=None, seed=0)
    targets = torch.zeros(POSITIONS, dtype=torch.int64)
    settings = LossSettings(0.0, 1.0, 0.9, REAL, kind, top_k)
    found = summed_losses(hidden, head, targets, settings, frozen(hidden, head))
    found.total.backward()
    assert abs(found.divergence.item()) < 1e-4
    assert hidden.grad.abs().max() < 1e-4


def test_jensen_shannon_is_at_most_log_2_and_the_bucket_at_most_the_whole(targets) -> None:
    hidden, head = make(64, CHANNELS, bias=False, softcapping=None, seed=0)
    taught = frozen(*make(56, 20, bias=False, softcapping=None, seed=1))

    def value(kind: DivergenceKind, top_k: int | None = None) -> float:
        settings = LossSettings(0.2, 0.8, 1.0, REAL, kind, top_k)
        return summed_losses(hidden, head, targets, settings, taught).divergence.item()

    assert 0 < value("jensen-shannon") < POSITIONS * log(2)
    for kind in KINDS:
        rising = [value(kind, k) for k in (2, 10, 30, None)]
        assert rising == sorted(rising)
        assert value(kind, 49) == pytest.approx(value(kind), rel=1e-5)


def test_what_was_kept_of_a_teacher_teaches_as_it_would_itself(targets) -> None:
    """Also when fewer tokens are wanted than were kept, and at any temperature."""
    hidden, head = make(64, CHANNELS, bias=False, softcapping=None, seed=0)
    taught = frozen(*make(56, 20, bias=False, softcapping=None, seed=1))
    kept = top_k_of(logits_of(*taught)[:, :REAL], 20)
    for kind, top_k, tail, temperature in product(KINDS, (5, 20), TAILS, (0.9, 3.0)):
        settings = LossSettings(0.2, 0.8, temperature, REAL, kind, top_k, tail)
        online = summed_losses(hidden, head, targets, settings, taught)
        cached = summed_losses(hidden, head, targets, settings, kept)
        (expected,), (found,) = (
            torch.autograd.grad(one.total, hidden, retain_graph=True) for one in (online, cached)
        )
        torch.testing.assert_close(cached.divergence, online.divergence, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_top_k_of_a_sure_teacher_has_an_exact_rest() -> None:
    """In float32, 1 minus what is kept would be 0 here."""
    logits = torch.zeros(1, REAL)
    logits[0, 3] = 30.0
    kept = top_k_of(logits.clone(), 1)
    exact = torch.log_softmax(logits.double(), 1)
    rest = exact[0, torch.arange(REAL) != 3].logsumexp(0)
    assert kept.ids.tolist() == [[3]]
    assert kept.log_rest.item() == pytest.approx(rest.item(), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_stay_finite(kind) -> None:
    teacher, student = torch.zeros(2, REAL), torch.zeros(2, REAL)
    teacher[:, 0], student[:, 1] = 500.0, 500.0
    value, gradient = divergence(kind, teacher.log_softmax(1), student.log_softmax(1))
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    for top_k in (1, 2):
        kept = top_k_of(teacher.clone(), top_k)
        settings = LossSettings(1.0, 1.0, 0.5, REAL, kind, top_k)
        hidden = torch.eye(2, requires_grad=True)
        head = Head(student.t().contiguous().requires_grad_(), None, None)
        found = summed_losses(hidden, head, torch.tensor([0, 1]), settings, kept)
        found.total.backward()
        assert torch.isfinite(found.total)
        assert torch.isfinite(hidden.grad).all()
        assert torch.isfinite(head.weight.grad).all()


class LargestLogits(TorchDispatchMode):
    """The most rows of a float32 tensor that is as wide as one of the vocabularies."""

    def __init__(self, widths: set[int]) -> None:
        super().__init__()
        self.widths, self.rows = widths, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, Tensor) and one.dim() == 2 and one.size(1) in self.widths:
                self.rows = max(self.rows, one.size(0))
        return result


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top_k", [None, 7])
def test_no_more_than_a_chunk_of_logits_is_ever_held(kind, top_k, targets) -> None:
    hidden, head = make(64, 6, bias=False, softcapping=None, seed=0)
    taught = frozen(*make(56, 7, bias=False, softcapping=None, seed=1))
    settings = LossSettings(0.2, 0.8, 0.9, REAL, kind, top_k)
    with LargestLogits({64, 56, REAL}) as largest:
        summed_losses(hidden, head, targets, settings, taught).total.backward()
    assert largest.rows == 8
    with LargestLogits({64, 56, REAL}) as largest:
        naive(hidden, head, targets, settings, taught)[0].backward()
    assert largest.rows == POSITIONS


def test_autocast_computes_products_in_bfloat16(targets) -> None:
    hidden, head = make(64, CHANNELS, bias=False, softcapping=None, seed=0)
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


def test_a_cut_top_k_counts_what_it_drops_to_the_rest() -> None:
    logits = torch.randn(4, REAL, generator=torch.Generator().manual_seed(0))
    expected, found = top_k_of(logits.clone(), 6), top_k_of(logits.clone(), 20).cut(6)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.log_rest, expected.log_rest)
