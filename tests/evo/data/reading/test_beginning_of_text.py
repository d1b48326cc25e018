"""A beginning-of-text token before documents or blocks, against plain lists."""

import json

import numpy as np
import pytest

from evo.data.chunks import chunks_of
from evo.data.prepared_corpus import Manifest, open_blocks
from evo.data.reading import PLAIN, Reading
from evo.data.token_blocks import load_stream, load_text
from evo.data.tokenise_chunk import tokenise_chunk
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer
from tests.support.bpe import write_tokenizer
from tests.support.corpora import random_documents, write_jsonl
from training.data.stream import BlockStream, TextPosition, parts_of

TEXTS = [text for text in random_documents(30, seed=3) if text]
LENGTH = 8
READINGS = [Reading(bos=bos) for bos in ("none", "document", "block")]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    described = {"eos_token": "<|endoftext|>", "bos_token": "!"}
    (directory / "tokenizer_config.json").write_text(json.dumps(described))
    return Tokenizer(directory)


@pytest.fixture
def how(tokenizer):
    return {"tokenizer": tokenizer, "vocabulary": 300}


def stream(tokenizer, reading):
    begin = [tokenizer.beginning_of_text] if reading.bos == "document" else []
    return [
        token
        for ids in tokenizer.encode(TEXTS)
        for token in [*begin, *ids.tolist(), tokenizer.end_of_text]
    ]


def blocks(tokenizer, reading, tokens=None):
    tokens = stream(tokenizer, reading) if tokens is None else tokens
    first = [tokenizer.beginning_of_text] if reading.bos == "block" else []
    width = LENGTH - len(first)
    starts = range(0, len(tokens) // width * width, width)
    return np.array([[*first, *tokens[start : start + width]] for start in starts])


def prepared(directory, source, tokenizer, reading, length=None):
    directory.mkdir()
    (chunk,) = chunks_of([str(source)], reading=reading)
    record = tokenise_chunk(0, chunk, tokenizer, directory)
    Manifest(
        [str(source)], [], tokenizer.hash, tokenizer.end_of_text, length, record.documents,
        record.tokens, "uint16", record.shards, bos=reading.bos,
    ).save(directory)  # fmt: skip
    return str(directory)


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.bos)
def test_files_prepared_corpora_and_streams_agree(reading, tokenizer, how, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    expected = blocks(tokenizer, reading)
    text = load_text(str(source), **how, sequence_length=LENGTH, reading=reading)
    assert np.array_equal(text.blocks, expected)
    assert load_text(str(source), **how, sequence_length=LENGTH, reading=reading).hash == text.hash

    for number, length in enumerate((None, LENGTH)):
        corpus = prepared(tmp_path / str(number), source, tokenizer, reading, length)
        found = open_blocks(corpus, **how, sequence_length=LENGTH, reading=reading)
        assert np.array_equal(found[:], expected)
        some = np.array([5, 0, len(expected) - 1])
        assert np.array_equal(found[some], expected[some])
        loaded = load_text(corpus, **how, sequence_length=LENGTH, reading=reading)
        assert loaded.hash == text.hash

    read = BlockStream(parts_of(str(source), reading), tokenizer, LENGTH, reading=reading)
    assert np.array_equal(read.read(7), expected[:7])
    position = read.position
    rest = read.read(len(expected) - 7)
    assert np.array_equal(rest, expected[7:])
    assert position != TextPosition()
    again = BlockStream(
        parts_of(str(source), reading), tokenizer, LENGTH, position, reading=reading
    )
    assert np.array_equal(again.read(len(rest)), rest)


def test_each_way_is_another_text_and_none_is_the_text_of_before(tokenizer, how, tmp_path):
    source = str(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    found = [load_text(source, **how, sequence_length=LENGTH, reading=each) for each in READINGS]
    assert len({text.hash for text in found}) == len(READINGS)
    assert load_text(source, **how, sequence_length=LENGTH).hash == found[0].hash
    assert PLAIN.changes == {}
    corpus = prepared(tmp_path / "corpus", source, tokenizer, PLAIN)
    each = [
        open_blocks(corpus, **how, sequence_length=LENGTH, reading=reading).hash
        for reading in (PLAIN, Reading(bos="block"))
    ]
    assert each[0] == open_blocks(corpus, **how, sequence_length=LENGTH).hash != each[1]


def test_token_ids_are_cut_to_blocks_that_begin_with_it(tokenizer, how, tmp_path):
    tokens = np.random.default_rng(0).integers(300, size=100)
    np.save(tmp_path / "a.npy", tokens)
    reading = Reading(bos="block")
    text = load_text(str(tmp_path / "a.npy"), **how, sequence_length=LENGTH, reading=reading)
    assert np.array_equal(text.blocks, blocks(tokenizer, reading, tokens.tolist()))
    few = load_text(
        str(tmp_path / "a.npy"), **how, sequence_length=LENGTH, reading=reading, max_tokens=17
    )
    assert few.blocks.shape == (2, LENGTH)


def test_windows_slide_over_documents_that_begin_with_it(tokenizer, how, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    reading = Reading(bos="document")
    expected = stream(tokenizer, reading)
    assert load_stream(str(source), **how, reading=reading).tolist() == expected
    corpus = prepared(tmp_path / "corpus", source, tokenizer, reading)
    assert load_stream(corpus, **how, reading=reading).tolist() == expected


def test_what_cannot_be_is_refused(tokenizer, how, tmp_path):
    source = str(write_jsonl(tmp_path / "a.jsonl", TEXTS))
    np.save(tmp_path / "rows.npy", np.zeros((3, LENGTH), np.int64))
    np.save(tmp_path / "stream.npy", np.zeros(30, np.int64))
    document, block = Reading(bos="document"), Reading(bos="block")
    without = Tokenizer(write_tokenizer(tmp_path / "without"))
    with_document = prepared(tmp_path / "document", source, tokenizer, document)
    with_block = prepared(tmp_path / "block", source, tokenizer, block)
    plain = prepared(tmp_path / "plain", source, tokenizer, PLAIN)
    for name, reading, changes, message in (
        (source, document, {"tokenizer": without}, "no tokenizer that names a beginning-of-text"),
        (source, block, {"tokenizer": without}, "no tokenizer that names a beginning-of-text"),
        (tmp_path / "stream.npy", block, {"tokenizer": None}, "no tokenizer that names"),
        (tmp_path / "stream.npy", document, {}, "where documents begin in it is not known"),
        (tmp_path / "rows.npy", document, {}, "rows, which are blocks as they are"),
        (tmp_path / "rows.npy", block, {}, "rows, which are blocks as they are"),
        (with_document, PLAIN, {}, "was prepared with --bos document"),
        (with_document, block, {}, "was prepared with --bos document"),
        (with_block, PLAIN, {}, "was prepared with --bos block"),
        (plain, document, {}, "was prepared with --bos none"),
    ):
        with pytest.raises(UserError, match=message):
            load_text(str(name), **how | changes, sequence_length=LENGTH, reading=reading)
    with pytest.raises(UserError, match="sequences that overlap are no blocks"):
        load_stream(source, **how, reading=block)
    with pytest.raises(UserError, match="--bos both: give one of none, document, block"):
        Reading(bos="both")
