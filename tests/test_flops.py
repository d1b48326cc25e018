from __future__ import annotations

from pathlib import Path

import pytest
import torch
from litgpt.model import GPT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evo import checkpoint
from tests import tiny_checkpoints
from training.flops import training_flops

LENGTH = 16


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
    one, other = [(stored.architecture, stored.widths) for stored in (student, teacher)]
    trained = counted_flops(student.model(), train=True)
    taught = counted_flops(teacher.model(), train=False)
    assert training_flops(one, None, LENGTH) == trained
    assert training_flops(one, other, LENGTH) == trained + taught
