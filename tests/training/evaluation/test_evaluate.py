from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from evo.cli import main
from evo.data import token_blocks as text
from evo.data.prepared_corpus import Manifest
from evo.data.token_blocks import load_text
from evo.data.token_shards import Blocks, write_shard
from evo.errors import UserError
from evo.model import checkpoint
from evo.model.tokenizer import Tokenizer
from tests.support import tiny_checkpoints
from tests.support.bpe import write_tokenizer
from tests.support.corpora import random_documents, write_jsonl
from training.evaluation.evaluate import evaluate


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_checkpoints.llama(tmp_path / "model")


def test_equals_litgpts_own_forward(tmp_path: Path, model: Path) -> None:
    text = tiny_checkpoints.text(tmp_path / "text.npy", blocks=70)
    found = evaluate(model, text, micro_batch=3)
    tokens = torch.from_numpy(np.load(text).astype(np.int64))
    with torch.no_grad():
        logits = checkpoint.load(model).model()(tokens[:, :-1])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert found["tokens"] == 70 * 16
    assert found["nll"] == pytest.approx(expected.item(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["nll"]))


def test_max_tokens_and_sequence_length(tmp_path: Path, model: Path) -> None:
    np.save(tmp_path / "stream.npy", np.arange(1000) % tiny_checkpoints.VOCABULARY)
    found = evaluate(model, str(tmp_path / "stream.npy"), sequence_length=10, max_tokens=50)
    assert found["tokens"] == 5 * 9


def test_a_prepared_corpus_is_not_held_in_memory(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = np.random.default_rng(0).integers(60, size=700 * 10)
    np.save(tmp_path / "plain.npy", tokens)
    (tmp_path / "corpus").mkdir()
    shard = write_shard(tmp_path / "corpus" / "0.arrow", tokens.astype(np.uint16))
    manifest = Manifest(["a"], [], "tokenizer", 0, None, 1, len(tokens), "uint16", [shard])
    manifest.save(tmp_path / "corpus")
    read: list[int] = []
    get = Blocks.__getitem__

    def counted(blocks: Blocks, numbers: np.ndarray) -> np.ndarray:
        read.append(len(numbers))
        return get(blocks, numbers)

    monkeypatch.setattr(Blocks, "__getitem__", counted)
    for limit in (None, 100):
        sources = [str(tmp_path / name) for name in ("corpus", "plain.npy")]
        found, plain = (
            evaluate(model, source, sequence_length=10, max_tokens=limit) for source in sources
        )
        assert found == plain
    assert sum(read) == 700 + 10
    assert max(read) == 64


def test_a_data_set_without_an_end_is_refused(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MOST_TOKENS", 500)
    write_tokenizer(model, vocabulary=280)
    write_jsonl(tmp_path / "train.jsonl", random_documents(50, seed=1))
    source = f"hf:{tmp_path}:train"
    with pytest.raises(UserError, match=r"more than 0M tokens: say with --max-tokens"):
        load_text(source, tokenizer=Tokenizer(model), vocabulary=280, sequence_length=10)
    how = {"tokenizer": Tokenizer(model), "vocabulary": 280, "sequence_length": 10}
    assert load_text(source, **how, max_tokens=600).tokens == 600


def test_refusals(tmp_path: Path, model: Path) -> None:
    text = tiny_checkpoints.text(tmp_path / "text.npy")
    with pytest.raises(UserError, match="give 2 to 32"):
        evaluate(model, text, sequence_length=64)
    with pytest.raises(UserError, match="--micro-batch 0"):
        evaluate(model, text, micro_batch=0)


def test_a_perplexity_beyond_float64_is_null(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = checkpoint.load(model).model()
    with torch.no_grad():
        network.lm_head.weight *= 1e5
    checkpoint.save(tmp_path / "wild", network)
    text, out = tiny_checkpoints.text(tmp_path / "text.npy"), tmp_path / "result.json"
    assert main(["eval", str(tmp_path / "wild"), "--text", text, "--out", str(out)]) == 0
    for shown in (capsys.readouterr().out, out.read_text()):
        found = json.loads(shown, parse_constant=pytest.fail)
        assert found["nll"] > 710
        assert found["perplexity"] is None
