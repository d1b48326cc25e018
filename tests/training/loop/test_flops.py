from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from litgpt.model import GPT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evo.model import checkpoint
from evo.model.extract import extract
from tests.support import tiny_checkpoints
from tests.support.cuts import random_subnet
from training.loop.flops import training_flops
from training.loop.student import Student
from training.losses.chunked_loss import Teacher
from training.losses.settings import LossSettings
from training.teacher.network import TeacherNetwork, teacher_states, teacher_top_k

LENGTH = 16
BLOCK = 80
"""As many tokens as the teachers of tests/support/families.py take."""


def counted_flops(model: GPT, *, train: bool) -> float:
    """FLOPs per token by torch's own count, which only knows attention as matrix products."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.set_grad_enabled(train):
        logits = model(torch.zeros(1, LENGTH, dtype=torch.int64))
        if train:
            logits.sum().backward()
    return counter.get_total_flops() / LENGTH


@pytest.mark.parametrize("kind", ["neox", "llama"])
def test_equals_torchs_count_of_both_passes(tmp_path: Path, kind: str) -> None:
    student = checkpoint.load(getattr(tiny_checkpoints, kind)(tmp_path / "student"))
    teacher = checkpoint.load(tiny_checkpoints.neox(tmp_path / "teacher", channels=48))
    trained = counted_flops(student.model(), train=True)
    taught = counted_flops(teacher.model(), train=False)
    assert training_flops(student, None, LENGTH) == trained
    assert training_flops(student, teacher, LENGTH) == trained + taught


def flops_of_a_step(
    model: GPT, settings: LossSettings, view: Callable[[torch.Tensor], Teacher | None]
) -> int:
    """Of a block, by torch's count of the loop's own step, fused loss and all."""
    student = Student(model.train(), settings)
    # A target more than the closed form's tokens: it counts a block's tokens, the loop their pairs.
    tokens = torch.zeros(2, BLOCK + 1, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        student(tokens, view(tokens))[0].backward()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("family", ["neox", "llama", "llama-tied", "qwen2", "qwen3"])
def test_within_a_percent_of_the_loops_own_step(
    teacher: Callable[[str], Path], family: str, uniform: bool, tmp_path: Path
) -> None:
    """A subnet of a teacher with grouped queries: alone, and distilled in every way there is."""
    stored = checkpoint.load(teacher(family))
    rng = np.random.default_rng(3)
    subnet = random_subnet(stored.architecture.dimensions, rng, uniform=uniform)
    model = extract(stored.config, stored.weights, subnet, tied=stored.tied, sequence_length=BLOCK)
    checkpoint.save(tmp_path / "student", model)
    own = checkpoint.load(tmp_path / "student")
    assert own.widths.is_uniform == uniform
    network = TeacherNetwork(stored.model())
    kept = teacher_top_k(network, torch.zeros(2, BLOCK + 1, dtype=torch.int64), vocabulary=99, k=9)
    cases: list[tuple[LossSettings, Callable[[torch.Tensor], Teacher | None], int]] = [
        (LossSettings(), lambda _: None, training_flops(own, None, BLOCK)),
        (
            LossSettings(0.2, 0.8, 0.9, 99, "jensen-shannon"),
            lambda tokens: teacher_states(network, tokens),
            training_flops(own, stored, BLOCK),
        ),
        (
            LossSettings(0.2, 0.8, 0.9, 99, top_k=9),
            lambda tokens: teacher_states(network, tokens),
            training_flops(own, stored, BLOCK),
        ),
        (
            LossSettings(0.2, 0.8, 0.9, 99, top_k=9),
            lambda _: kept,
            training_flops(own, None, BLOCK),
        ),
    ]
    for settings, view, per_token in cases:
        counted = flops_of_a_step(model, settings, view)
        assert counted == pytest.approx(BLOCK * per_token, rel=0.01)
