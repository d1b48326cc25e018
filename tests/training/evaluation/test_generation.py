"""Batched greedy generation with a cache against one token at a time without one."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from evo.errors import UserError
from evo.model import checkpoint
from tests.support.families import random_tokens
from tests.support.winners import cut
from training.evaluation.generation import greedy

LENGTHS = (3, 11, 7, 1)


@pytest.mark.parametrize("family", ["neox", "llama", "qwen3", "olmo2"])
def test_equals_generation_without_a_cache(family, teacher, tmp_path):
    model = checkpoint.load(cut(teacher(family), tmp_path / "winner", uniform=False)).model()
    prompts = [random_tokens(1, length, seed=length)[0].tolist() for length in LENGTHS]
    found = greedy(model, prompts, 8)
    for prompt, tokens in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            for _ in range(8):
                ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], dim=1)
        assert tokens == ids[0, len(prompt) :].tolist()
    again = greedy(model, prompts, 8, lambda tokens: len(tokens) == 3 or tokens[-1] == found[1][0])
    for tokens, whole in zip(again, found, strict=True):
        ends = [i + 1 for i, token in enumerate(whole[:3]) if token == found[1][0]]
        assert tokens == whole[: min([3, *ends])]


def test_more_than_the_model_takes(teacher):
    model = checkpoint.load(teacher("llama")).model()
    with pytest.raises(UserError, match="71 tokens and 10 more are beyond the model's 80"):
        greedy(model, np.zeros((1, 71), np.int64).tolist(), 10)
    assert len(greedy(model, np.zeros((1, 70), np.int64).tolist(), 10)[0]) == 10


class Reads(TorchDispatchMode):
    """How many single numbers are read from tensors, for each of which a device is waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_rows_are_read_together(teacher):
    model = checkpoint.load(teacher("llama")).model()
    counts = []
    for rows in (1, 4):
        with Reads() as reads:
            greedy(model, [[1, 2, 3]] * rows, 6)
        counts.append(reads.count)
    assert counts[0] == counts[1]
