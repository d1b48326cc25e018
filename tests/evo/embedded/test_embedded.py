from __future__ import annotations

import hashlib
import json
from pathlib import Path

import litgpt
import pytest
import torch

from evo import embedded
from evo.embedded import make, teacher_path
from evo.model import checkpoint
from evo.model.tokenizer import load_tokenizer
from training.evaluation.evaluate import evaluate

DIRECTORY = Path(embedded.__file__).parent


def test_is_whole_and_small() -> None:
    for line in (DIRECTORY / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((DIRECTORY / name).read_bytes()).hexdigest() == digest
    files = [path for path in DIRECTORY.rglob("*") if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) <= 8 * 10**6


def test_litgpt_loads_it() -> None:
    stored = checkpoint.load(teacher_path())
    model = litgpt.GPT(litgpt.Config.from_file(teacher_path() / "model_config.yaml"))
    model.load_state_dict(stored.weights, strict=True)
    assert {tensor.dtype for tensor in stored.weights.values()} == {torch.bfloat16}
    assert stored.vocabulary == stored.config.padded_vocab_size == make.VOCABULARY
    theirs = litgpt.Tokenizer(teacher_path())
    text = "def f(x):\n    return 'é\x00' + x  # ≥\n"
    assert theirs.encode(text).tolist() == stored.tokenizer.encode([text])[0].tolist()
    assert theirs.decode(theirs.encode(text)) == text


@pytest.mark.slow
def test_knows_python() -> None:
    found = evaluate(teacher_path(), "stdlib:validation", max_tokens=30_000, device="cpu")
    assert found["perplexity"] < 12


def test_the_log_ends_at_the_recipes_tokens() -> None:
    rows = [json.loads(line) for line in (DIRECTORY / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(len(rows)))
    assert rows[-1]["tokens"] >= make.TOKENS
    perplexities = [r["validation_perplexity"] for r in rows if "validation_perplexity" in r]
    assert len(perplexities) >= 10
    assert rows[-1]["validation_perplexity"] == min(perplexities) < 12


@pytest.mark.slow
def test_the_recipe_makes_a_start_that_trains(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    make.make_tokenizer(tmp_path / "tokenizer")
    make.make_start(tmp_path / "start", tmp_path / "tokenizer")
    start = checkpoint.load(tmp_path / "start")
    assert load_tokenizer(tmp_path / "tokenizer").vocabulary == make.VOCABULARY
    assert sum(t.numel() for t in start.weights.values()) == pytest.approx(3.13e6, rel=0.01)
    assert make.checksums(tmp_path / "tokenizer").count("\n") == 2
