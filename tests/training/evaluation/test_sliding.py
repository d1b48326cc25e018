"""A sliding window against a loop that scores one token at a time."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from evo.errors import UserError
from evo.model import checkpoint
from tests.support import tiny_checkpoints
from training.evaluation.evaluate import evaluate
from training.evaluation.sliding import windows

TOKENS = 83


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoints.llama(tmp_path / "model")


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "stream.npy", rng.integers(tiny_checkpoints.VOCABULARY, size=TOKENS))
    return tmp_path / "stream.npy"


def token_by_token(model: Path, tokens: np.ndarray, length: int, stride: int) -> list[float]:
    """The NLL of each target, from as much context as its window has: a window ends with the first
    `length` tokens, then every `stride` tokens, and with the text."""
    network = checkpoint.load(model).model()
    losses = []
    for target in range(1, len(tokens)):
        end = length
        while end <= target:
            end = min(end + stride, len(tokens))
        context = torch.from_numpy(tokens[max(0, end - length) : target]).long()
        with torch.inference_mode():
            logits = network(context[None])[0, -1]
        losses.append(-torch.log_softmax(logits, 0)[int(tokens[target])].item())
    return losses


@pytest.mark.parametrize(
    ("length", "stride"), [(16, 1), (16, 5), (16, 15), (32, 8), (32, 31), (20, 7), (17, 11)]
)
def test_equals_a_loop_over_single_tokens(length, stride, model, stream):
    tokens = np.load(stream)
    found = evaluate(model, str(stream), sequence_length=length, stride=stride, micro_batch=3)
    expected = token_by_token(model, tokens, length, stride)
    assert found["tokens"] == len(expected) == TOKENS - 1
    assert found["nll"] == pytest.approx(np.mean(expected), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["nll"]))


@pytest.mark.parametrize("tokens", [2, 9, 32, 33, 40, 100])
@pytest.mark.parametrize(("length", "stride"), [(32, 1), (32, 10), (32, 31), (5, 2)])
def test_every_target_once_with_enough_context(tokens, length, stride):
    starts, counts = windows(tokens, length, stride)
    size = min(length, tokens)
    scored = [
        (start + place, place)
        for start, count in zip(starts, counts, strict=True)
        for place in range(size - count, size)
    ]
    assert [target for target, _ in scored] == list(range(1, tokens))
    assert all(context >= min(target, length - stride) for target, context in scored)


@pytest.mark.parametrize(("most", "count"), [(16, 1), (20, 1), (21, 2), (35, 4), (1000, 15)])
def test_max_tokens(most, count, model, stream):
    """Whole windows, evenly spaced, the first of which scores all that it has."""
    found = evaluate(model, str(stream), sequence_length=16, stride=5, max_tokens=most)
    losses = token_by_token(model, np.load(stream), 16, 5)
    _, counts = windows(TOKENS, 16, 5)
    ends = np.cumsum(counts)
    chosen = np.arange(count) * len(counts) // count
    expected = [losses[i] for one in chosen for i in range(ends[one] - counts[one], ends[one])]
    assert found["tokens"] == len(expected) < most
    assert found["nll"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_refusals(tmp_path, model, stream):
    with pytest.raises(UserError, match="--stride 32 cannot be: give 1 to 31"):
        evaluate(model, str(stream), stride=32)
    with pytest.raises(UserError, match="--stride 0 cannot be"):
        evaluate(model, str(stream), stride=0)
    with pytest.raises(UserError, match="--max-tokens 31 is less than one window of 32 tokens"):
        evaluate(model, str(stream), stride=4, max_tokens=31)
    np.save(tmp_path / "one.npy", np.array([3]))
    with pytest.raises(UserError, match="nothing to predict"):
        evaluate(model, str(tmp_path / "one.npy"), stride=4)
    np.save(tmp_path / "high.npy", np.array([3, tiny_checkpoints.VOCABULARY + 10]))
    with pytest.raises(UserError, match="token id 70"):
        evaluate(model, str(tmp_path / "high.npy"), stride=4)
    with pytest.raises(UserError, match="holds rows, each for itself"):
        evaluate(model, tiny_checkpoints.text(tmp_path / "rows.npy"), stride=4)
