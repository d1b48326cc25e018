from __future__ import annotations

import json
import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from evo.data.prepared_corpus import Manifest, open_blocks, read_stream
from evo.data.token_blocks import load_stream, load_text
from evo.data.token_shards import Blocks, write_shard
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer
from tests.support.bpe import write_tokenizer

STREAM = np.random.default_rng(0).integers(300, size=1000)
CUTS = (0, 100, 107, 600, 1000)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def corpus(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A corpus of four shards, one of them shorter than a block."""
    shards = [
        write_shard(tmp_path / f"{start}.arrow", STREAM[start:stop].astype(np.uint16))
        for start, stop in pairwise(CUTS)
    ]
    made_by = (tokenizer.hash, tokenizer.end_of_text)
    Manifest(["text"], [], *made_by, None, 5, len(STREAM), "uint16", shards).save(tmp_path)
    return tmp_path


def blocks_of(corpus: Path, length: int, tokenizer: Tokenizer | None = None) -> Blocks:
    return open_blocks(str(corpus), tokenizer=tokenizer, vocabulary=300, sequence_length=length)


def change(corpus: Path, **values: object) -> None:
    replace(Manifest.load(corpus), **values).save(corpus)


@pytest.mark.parametrize("length", [2, 17, 250, 999, 1000])
def test_blocks_are_the_stream_cut_evenly(corpus: Path, length: int) -> None:
    blocks = blocks_of(corpus, length)
    expected = STREAM[: len(STREAM) // length * length].reshape(-1, length)
    assert blocks.shape == expected.shape
    assert blocks.size == expected.size
    assert np.array_equal(blocks[:], expected)
    assert np.array_equal(blocks[1:3], expected[1:3])
    some = np.random.default_rng(1).integers(len(expected), size=20)
    for handle in (blocks, pickle.loads(pickle.dumps(blocks))):
        assert np.array_equal(handle[some], expected[some])
        assert handle[some].dtype == np.int32


def test_a_handle_carries_no_tokens(corpus: Path) -> None:
    blocks = blocks_of(corpus, 10)
    small = len(pickle.dumps(blocks))
    blocks[:]
    assert len(pickle.dumps(blocks)) == small < 1000


def test_it_is_read_as_text_is(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    np.save(tmp_path / "stream.npy", STREAM)
    for limit in (None, 160):
        settings = {"vocabulary": 300, "sequence_length": 16, "max_tokens": limit}
        found = load_text(str(corpus), tokenizer=tokenizer, **settings)
        plain = load_text(str(tmp_path / "stream.npy"), tokenizer=None, **settings)
        assert np.array_equal(found.blocks, plain.blocks)
        assert found.hash == plain.hash


@pytest.mark.parametrize("most", [None, 1, 100, 101, 640, 1000, 2000])
def test_it_is_a_stream_too(corpus: Path, most: int | None) -> None:
    stream = read_stream(str(corpus), tokenizer=None, vocabulary=300, max_tokens=most)
    assert np.array_equal(stream, STREAM[:most])
    assert stream.dtype == np.int32
    assert np.array_equal(load_stream(str(corpus), tokenizer=None, vocabulary=300), STREAM)


def test_which_shards_blocks_lie_in(corpus: Path) -> None:
    blocks = blocks_of(corpus, 30)
    found = {number: blocks.shards_of(np.array([number])).tolist() for number in (0, 3, 4, 19, 20)}
    assert found == {0: [0], 3: [0, 1, 2], 4: [2], 19: [2], 20: [3]}


def test_a_corpus_in_blocks_keeps_their_length(corpus: Path) -> None:
    change(corpus, sequence_length=20)
    assert blocks_of(corpus, 32).shape == (50, 20)
    with pytest.raises(UserError, match="blocks of 20 tokens, more than the sequence length of 16"):
        blocks_of(corpus, 16)


def test_what_does_not_fit_the_model_is_refused(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    blocks_of(corpus, 8, tokenizer)
    other = Tokenizer(write_tokenizer(tmp_path / "other", vocabulary=280))
    with pytest.raises(UserError, match="prepared with another tokenizer"):
        blocks_of(corpus, 8, other)
    with pytest.raises(UserError, match="token id 299, but the model's vocabulary ends at 298"):
        open_blocks(str(corpus), tokenizer=None, vocabulary=299, sequence_length=8)
    with pytest.raises(UserError, match="too short: 1000 tokens, less than one block of 1001"):
        blocks_of(corpus, 1001)
    change(corpus, end_of_text=3)
    with pytest.raises(UserError, match="another tokenizer"):
        blocks_of(corpus, 8, tokenizer)
    (corpus / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="is no manifest"):
        blocks_of(corpus, 8)


def test_a_damaged_or_missing_shard_is_named(corpus: Path) -> None:
    path = corpus / "107.arrow"
    whole = path.read_bytes()
    blocks_of(corpus, 8)
    for content in (whole[:-1], whole[:400] + b"\1" + whole[401:], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"107\.arrow is damaged: run the same `evo prepare`"):
            blocks_of(corpus, 8)
    path.unlink()
    with pytest.raises(UserError, match=r"107\.arrow is missing"):
        blocks_of(corpus, 8)
    (corpus / "0.arrow").unlink()
    with pytest.raises(UserError, match=r"0\.arrow is missing, and so are 1 others"):
        blocks_of(corpus, 8)


def test_only_shards_that_are_read_are_checked(corpus: Path, tokenizer: Tokenizer) -> None:
    (corpus / "600.arrow").unlink()
    settings = {"tokenizer": None, "vocabulary": 300, "sequence_length": 20}
    text = load_text(str(corpus), **settings, max_tokens=20)  # the first block
    assert np.array_equal(text.blocks[0], STREAM[:20])
    with pytest.raises(UserError, match=r"600\.arrow is missing"):
        load_text(str(corpus), **settings, max_tokens=60)  # and the 16th and 33rd
    (corpus / "0.arrow").unlink()
    with pytest.raises(UserError, match=r"0\.arrow is missing"):
        load_text(str(corpus), **settings, max_tokens=20)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": "many"},
        {"tokens": 7},
        {"sequence_length": 1.5},
        {"sequence_length": 0},
        {"shards": None},
        {"shards": [3]},
        {"shards": [{"file": 3, "bytes": 1, "checksum": "", "tokens": 1, "largest": 1}]},
        {"files": None},
        {"text": "a"},
        {"end_of_text": -1},
        {"documents": None},
    ],
    ids=str,
)
def test_a_manifest_of_other_content_is_one_line(changes, tmp_path):
    shard = write_shard(tmp_path / "00000.arrow", np.arange(40, dtype=np.uint16))
    Manifest(["a"], [], "tokenizer", 0, None, 1, 40, "uint16", [shard]).save(tmp_path)
    assert Manifest.load(tmp_path).shards == [shard]
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match="is no manifest of `evo prepare`"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * 10_000, "[]", "3", "null", "", '"a"'], ids=lambda c: c[:9]
)
def test_a_manifest_that_is_none_is_one_line(content, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="is no manifest of `evo prepare`"):
        Manifest.load(tmp_path)
