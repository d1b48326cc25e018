from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evo.data.prepared_corpus import Manifest, is_prepared
from evo.data.token_shards import write_shard
from evo.errors import UserError
from evo.model import checkpoint
from evo.model.checkpoint import Checkpoint
from tests.support import tiny_checkpoints
from tests.support.corpora import random_documents, write_jsonl
from training.config import PretrainConfig
from training.data import training_text
from training.data.sampler import Extent
from training.data.stream import StreamedText
from training.data.training_text import TrainingText, open_training_text
from training.setup.inputs import read_inputs

LENGTH = 16


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Without a tokenizer."""
    return checkpoint.load(tiny_checkpoints.neox(tmp_path_factory.mktemp("model") / "neox"))


@pytest.fixture
def corpora(tmp_path: Path) -> dict[str, str]:
    """The same 60 blocks as a file, and prepared; and 20 others."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(60, size=60 * LENGTH + 3)
    np.save(tmp_path / "whole.npy", tokens)
    np.save(tmp_path / "other.npy", rng.integers(60, size=(20, LENGTH)))
    (tmp_path / "prepared").mkdir()
    shard = write_shard(tmp_path / "prepared" / "00000.arrow", tokens.astype(np.uint16))
    manifest = Manifest(["a"], [], "tokenizer", 0, None, 1, len(tokens), "uint16", [shard])
    manifest.save(tmp_path / "prepared")
    return {
        "whole": str(tmp_path / "whole.npy"),
        "other": str(tmp_path / "other.npy"),
        "prepared": str(tmp_path / "prepared"),
    }


def opened(
    student: Checkpoint, names: list[str], weights: list[float] | None = None
) -> TrainingText:
    return open_training_text(
        names,
        weights,
        student=student,
        vocabulary=60,
        sequence_length=LENGTH,
        tokens=1000,
        shuffle_tokens=10 * LENGTH + 3,
    )


def test_a_prepared_corpus_has_the_blocks_of_the_text(
    student: Checkpoint, corpora: dict[str, str]
) -> None:
    (whole,) = opened(student, [corpora["whole"]]).sources
    text = opened(student, [corpora["prepared"]])
    (prepared,) = text.sources
    assert np.array_equal(whole.blocks[:], prepared.blocks[:])
    assert whole.extent == prepared.extent == Extent(60)
    assert text.tokens == 60 * LENGTH
    assert (text.hash, text.shares, text.sequence_length) == (prepared.hash, (1.0,), LENGTH)


def test_a_directory_with_records_is_not_prepared(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    assert not is_prepared(str(tmp_path))
    (tmp_path / "settings.yaml").write_text("text: a\n")
    assert is_prepared(str(tmp_path))  # begun


def test_validation_is_of_the_length_that_is_trained(corpora: dict[str, str]) -> None:
    directory = Path(corpora["prepared"])
    replace(Manifest.load(directory), sequence_length=8).save(directory)
    inputs = read_inputs(
        PretrainConfig(
            model=tiny_checkpoints.neox(directory.parent / "model"),
            text=corpora["prepared"],
            tokens=100,
            out=directory.parent / "run",
            validation_text=corpora["whole"],
            validation_tokens=100,
            sequence_length=LENGTH,
        )
    )
    assert inputs.validation is not None
    assert inputs.text.sequence_length == inputs.validation.blocks.shape[1] == 8


def test_sources_count_by_their_tokens_or_their_weights(
    student: Checkpoint, corpora: dict[str, str]
) -> None:
    names = [corpora["whole"], corpora["other"]]
    assert opened(student, names).shares == (0.75, 0.25)
    weighted = opened(student, names, [1, 4])
    assert weighted.shares == (0.2, 0.8)
    assert weighted.tokens == 80 * LENGTH
    assert weighted.hash != opened(student, names[::-1], [1, 4]).hash


def test_what_is_large_is_a_stream(
    student: Checkpoint, corpora: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_text, "STREAMED_BYTES", 3000)
    text = opened(student, [corpora["whole"], corpora["other"]], [1, 1])
    large, small = text.sources
    assert isinstance(large.blocks, StreamedText)
    assert large.extent == Extent(10, is_stream=True)
    assert small.extent == Extent(20)
    assert text.tokens is None
    before = large.hash
    Path(corpora["whole"]).touch()
    assert opened(student, [corpora["whole"]]).hash == before
    np.save(corpora["whole"], np.arange(60 * LENGTH + 4) % 60)
    assert opened(student, [corpora["whole"]]).hash != before
    monkeypatch.setattr(training_text, "STREAMED_BYTES", 1000)
    assert opened(student, [corpora["other"]]).tokens == 20 * LENGTH  # rows, each a block
    with pytest.raises(UserError, match=r"how many tokens .*whole\.npy has is not known"):
        opened(student, [corpora["whole"], corpora["other"]])


def test_what_cannot_be_mixed_is_refused(
    student: Checkpoint, corpora: dict[str, str], tmp_path: Path
) -> None:
    np.save(tmp_path / "short.npy", np.zeros((9, 8), int))
    with pytest.raises(UserError, match=r"of one length, but there are .* of 16, .* of 8"):
        opened(student, [corpora["whole"], str(tmp_path / "short.npy")])
    with pytest.raises(UserError, match="one for each of the 2"):
        opened(student, [corpora["whole"], corpora["other"]], [1.0])
    write_jsonl(tmp_path / "a.jsonl", random_documents(9, 0))
    with pytest.raises(UserError, match="has no tokenizer"):
        opened(student, [f"hf:{tmp_path}:train"])
