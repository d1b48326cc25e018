import gzip
import json
import os
import platform
import shutil
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo.data import hub
from evo.data.reading.npy_files import has_rows
from evo.data.sources import documents
from evo.data.token_blocks import load_text
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer
from tests.support.bpe import TEXT, write_tokenizer

DOCUMENTS = [TEXT, "A second document.", "Und ein dritter, mit Umlauten: äöü."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def load(tokenizer):
    def load(source, **settings):
        defaults = {"tokenizer": tokenizer, "vocabulary": 300, "sequence_length": 8}
        return load_text(str(source), **defaults | settings)

    return load


@pytest.fixture
def refused(load):
    def refused(source, match, **settings):
        with pytest.raises(UserError, match=match) as caught:
            load(source, **settings)
        assert "\n" not in str(caught.value)

    return refused


def packed(texts, tokenizer, length=8):
    """Each document, then the end of text, cut into blocks; the rest is left out."""
    stream = [token for ids in tokenizer.encode(texts) for token in [*ids.tolist(), 0]]
    return np.array(stream[: len(stream) // length * length]).reshape(-1, length)


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def write_parquet(path, texts):
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts}), path)
    return path


def test_every_kind_of_file_gives_the_same_blocks(load, tokenizer, tmp_path):
    expected = packed(DOCUMENTS, tokenizer)
    for number, text in enumerate(DOCUMENTS):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    stream = np.array(
        [t for ids in tokenizer.encode(DOCUMENTS) for t in [*ids.tolist(), 0]], np.uint16
    )
    np.save(tmp_path / "stream.npy", stream)
    sources = [
        tmp_path / "*.txt",
        write_jsonl(tmp_path / "a.jsonl", DOCUMENTS),
        write_parquet(tmp_path / "a.parquet", DOCUMENTS),
        tmp_path / "stream.npy",
    ]
    texts = [load(source) for source in sources]
    for text in texts:
        assert np.array_equal(text.blocks, expected)
        assert text.blocks.dtype == np.int32
        assert text.tokens == expected.size
    assert len({text.hash for text in texts}) == 1
    assert load(sources[0], sequence_length=9).hash != texts[0].hash
    assert list(documents(str(sources[1]))) == DOCUMENTS


def test_compressed_files_and_directories(load, refused, tokenizer, tmp_path):
    expected = packed(DOCUMENTS * 2, tokenizer)
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    write_jsonl(tmp_path / "corpus" / "a.jsonl", DOCUMENTS)
    content = write_jsonl(tmp_path / "plain.jsonl", DOCUMENTS).read_bytes()
    compress = {
        ".jsonl.zst": partial(pa.compress, codec="zstd", asbytes=True),
        ".jsonl.zstd": partial(pa.compress, codec="zstd", asbytes=True),
        ".jsonl.gz": gzip.compress,
    }
    for name, compressed in compress.items():
        path = tmp_path / "corpus" / "deep" / f"b{name}"
        # Two frames, one after the other, as parallel compressors write them.
        frames = [compressed(content[:100]), compressed(content[100:])]
        path.write_bytes(b"".join(frames))
        assert np.array_equal(load(tmp_path / "corpus").blocks, expected)
        assert list(documents(str(path))) == DOCUMENTS
        path.write_bytes(path.read_bytes()[:-9])
        refused(path, "cannot be read|no JSON object")
        path.unlink()
    (tmp_path / "corpus" / ".hidden.txt").write_text("no")
    (tmp_path / "corpus" / "table.csv").write_text("no")
    assert np.array_equal(load(tmp_path / "corpus").blocks, packed(DOCUMENTS, tokenizer))
    np.save(tmp_path / "corpus" / "rows.npy", np.zeros((2, 8), int))
    refused(tmp_path / "corpus", "has rows, each a block of its own")


def test_what_follows_a_compressed_stream_is_one_line(refused, tmp_path):
    content = json.dumps({"text": TEXT}).encode() + b"\n"
    for name, compressed in (
        ("a.jsonl.gz", gzip.compress(content)),
        ("a.jsonl.zst", pa.compress(content, codec="zstd", asbytes=True)),
    ):
        for rest in (b"\0", b"\0" * 512, b"\0" * 2**21, b"text", compressed[:9]):
            (tmp_path / name).write_bytes(compressed + rest)
            refused(tmp_path / name, f"{name} cannot be read: ")


def test_null_is_an_empty_text_everywhere(tmp_path):
    texts = ["one", None, "two"]
    write_parquet(tmp_path / "train.parquet", texts)
    (tmp_path / "hub").mkdir()
    write_jsonl(tmp_path / "hub" / "train.jsonl", texts)
    for source in (tmp_path / "train.parquet", tmp_path / "hub", f"hf:{tmp_path / 'hub'}:train"):
        assert list(documents(str(source))) == ["one", "", "two"]


def test_rows_of_a_2d_npy_are_blocks(load, refused, tmp_path):
    rows = np.random.default_rng(0).integers(300, size=(5, 6))
    np.save(tmp_path / "a.npy", rows)
    text = load(tmp_path / "a.npy", tokenizer=None)
    assert np.array_equal(text.blocks, rows)
    np.save(tmp_path / "b.npy", rows[::-1])
    both = load(tmp_path / "*.npy", tokenizer=None).blocks
    assert np.array_equal(both, np.concatenate([rows, rows[::-1]]))
    assert load(tmp_path / "a.npy", max_tokens=14).blocks.shape == (2, 6)
    refused(tmp_path / "a.npy", "less than one block of 6", max_tokens=5)
    refused(tmp_path / "a.npy", "rows of 6 tokens, more than", sequence_length=5)
    np.save(tmp_path / "c.npy", rows[:, :4])
    refused(tmp_path / "*.npy", "different shapes")


def test_whether_a_file_has_rows_is_told_without_reading_it(tmp_path):
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.int64, (2**24, 2**10))  # a hole
    began = time.monotonic()
    assert has_rows(str(tmp_path / "a.npy"))
    assert not has_rows(str(tmp_path))
    assert time.monotonic() - began < 1


def test_max_tokens_takes_blocks_evenly_spaced_in_the_text(load, refused, tmp_path):
    source = write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    whole = load(source)
    third = len(whole.blocks) / 3
    chosen = whole.blocks[[0, int(third), int(2 * third)]]
    assert np.array_equal(load(source, max_tokens=30).blocks, chosen)
    assert np.array_equal(load(source, max_tokens=10**9).blocks, whole.blocks)
    for too_few in (7, 0, -9):
        refused(source, f"--max-tokens {too_few} is less than one block", max_tokens=too_few)


def test_the_standard_library_is_split_by_file(load, tokenizer):
    parts = {split: list(documents(f"stdlib:{split}")) for split in ("train", "validation")}
    assert len(parts["train"]) > 10 * len(parts["validation"]) > 100
    shared = {text for text in parts["train"] if len(text) > 500} & set(parts["validation"])
    assert not shared
    text = load("stdlib:validation", max_tokens=4096, sequence_length=256)
    assert text.blocks.shape == (16, 256)
    assert text.note == f"Python {platform.python_version()}"
    expected = packed(parts["validation"], tokenizer, 256)
    assert np.array_equal(text.blocks, expected[np.arange(16) * len(expected) // 16])


def test_what_was_tokenised_is_cached(load, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "cache"))
    source = write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    first = load(source)
    (cached,) = (tmp_path / "cache" / "tokens").glob("*.safetensors")
    assert load(source).hash == first.hash
    stamp = cached.stat().st_mtime_ns
    shutil.copy(source, tmp_path / "b.jsonl")  # cached by content, not by name
    assert np.array_equal(load(tmp_path / "b.jsonl").blocks, first.blocks)
    assert cached.stat().st_mtime_ns == stamp
    assert len(list(cached.parent.glob("*.safetensors"))) == 1

    write_jsonl(source, DOCUMENTS[::-1])
    assert load(source).hash != first.hash
    other = write_tokenizer(tmp_path / "other", vocabulary=280)
    assert load(tmp_path / "b.jsonl", tokenizer=Tokenizer(other)).hash != first.hash
    (other / "tokenizer_config.json").write_text('{"eos_token": "!"}')
    changed = Tokenizer(other)
    blocks = load(tmp_path / "b.jsonl", tokenizer=changed).blocks
    assert (blocks == changed.end_of_text).any()
    assert len(list(cached.parent.glob("*.safetensors"))) == 4


def test_unknown_sources(refused, tmp_path):
    for source in ("nothing", "stdlib:test", tmp_path / "*.txt", tmp_path, "hf:one"):
        refused(source, "source")
    (tmp_path / "a.csv").write_text("a,b")
    refused(tmp_path / "a.csv", "no text that can be read: a source is stdlib:train")
    refused("hf:someone/nothing:train", "cannot be read from the hub")


def test_a_name_with_the_signs_of_a_glob(load, tmp_path):
    assert load(write_jsonl(tmp_path / "a[1].jsonl", DOCUMENTS)).tokens


def test_empty_and_short_text(refused, tmp_path):
    (tmp_path / "a.txt").write_text("")
    refused(tmp_path / "a.txt", "is empty")
    (tmp_path / "a.txt").write_text("ab")
    refused(tmp_path / "a.txt", "too short: 3 tokens, less than one block of 8")
    refused(tmp_path / "a.txt", "leaves nothing to predict", sequence_length=1)
    refused(write_parquet(tmp_path / "a.parquet", []), "no parquet|is empty")
    np.save(tmp_path / "a.npy", np.empty(0, np.int64))
    refused(tmp_path / "a.npy", "not empty")
    np.save(tmp_path / "a.npy", np.zeros((4, 1), np.int64))
    refused(tmp_path / "a.npy", "rows of one token")


def test_token_ids_beyond_the_vocabulary(load, refused, tmp_path):
    np.save(tmp_path / "a.npy", np.array([[1, 2, 299], [4, 5, 6]]))
    assert load(tmp_path / "a.npy").tokens == 6
    refused(
        tmp_path / "a.npy", "token id 299, but the model's vocabulary ends at 298", vocabulary=299
    )
    np.save(tmp_path / "a.npy", np.array([1, 2, -3, 4, 5, 6, 7, 8]))
    refused(tmp_path / "a.npy", "token id -3")
    np.save(tmp_path / "a.npy", np.full(8, 2**32 + 5))  # 5, if it were cut to 32 bits
    refused(tmp_path / "a.npy", "token id 4294967301")


def test_text_without_a_tokenizer(refused, tmp_path):
    refused(write_jsonl(tmp_path / "a.jsonl", DOCUMENTS), "has no tokenizer", tokenizer=None)
    refused("stdlib:train", "has no tokenizer", tokenizer=None)


def test_damaged_files(refused, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    refused(tmp_path / "a.txt", "not UTF-8")
    good = json.dumps({"text": "fine"}).encode()
    for line in (b"{", b'{"other": 1}', b'{"text": 3}', b"[]", b"3", b"\xff"):
        (tmp_path / "a.jsonl").write_bytes(good + b"\n\n" + line + b"\n")
        refused(tmp_path / "a.jsonl", "line 3: no JSON object with a field `text`")

    path = write_parquet(tmp_path / "a.parquet", DOCUMENTS * 100)
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    pages = b"\0" * (len(whole) - footer - 4)
    for damaged in (b"", whole[:-20], b"x" * 100, whole[:4] + pages + whole[-footer:]):
        path.write_bytes(damaged)
        refused(path, "no parquet file that can be read")
    pq.write_table(pa.table({"body": ["a"]}), path)
    refused(path, "no column `text`, but")
    pq.write_table(pa.table({"text": [1, 2]}), path)
    refused(path, "a text is int")

    path = tmp_path / "a.npy"
    np.save(path, np.arange(100))
    whole = path.read_bytes()
    for damaged in (b"", whole[:50], whole[:-8], b"text"):
        path.write_bytes(damaged)
        refused(path, "no .npy file of token ids")
    np.save(path, np.array(["a"], object), allow_pickle=True)
    refused(path, "no .npy file of token ids")
    with path.open("wb") as file:
        np.savez(file, a=np.arange(8))
    refused(path, "an .npz archive")
    np.save(path, np.ones(8))
    refused(path, "float64 of shape")
    np.save(path, np.ones((2, 2, 2), int))
    refused(path, "1-D .* or 2-D")


def test_a_file_that_cannot_be_read_now_is_tried_again(load, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "WAITS", (0.2,) * 50)
    for path in (tmp_path / "a.txt", tmp_path / "a.jsonl"):
        path.symlink_to("/proc/self/mem")  # its first byte is an input/output error
        content = TEXT if path.suffix == ".txt" else json.dumps({"text": TEXT})

        def put_right(path=path, content=content):
            time.sleep(0.5)
            (tmp_path / "new").write_text(content)
            os.replace(tmp_path / "new", path)

        thread = threading.Thread(target=put_right)
        thread.start()
        assert list(documents(str(path))) == [TEXT]
        thread.join()


def test_a_file_that_stays_unreadable_is_one_line(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "WAITS", (0, 0))
    for name in ("a.txt", "a.jsonl", "a.jsonl.gz", "a.parquet"):
        (tmp_path / name).symlink_to("/proc/self/mem")
        refused(tmp_path / name, "cannot be read: .*put/output error")


def test_text_is_read_as_it_stands(load, tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\ntwo\r\n".encode("utf-8-sig"))
    assert list(documents(str(tmp_path / "a.txt"))) == ["one\r\ntwo\r\n"]


def test_hidden_directories_are_no_text_and_other_files_are_counted(tmp_path, caplog):
    caplog.set_level("INFO")
    corpus = tmp_path / ".hidden" / "corpus"  # only what is below the source counts
    (corpus / ".cache" / "x").mkdir(parents=True)
    (corpus / ".cache" / "x" / "h.txt").write_text("no")
    for name in ("b.TXT", "c.json.gz", "d.csv", "e.csv"):
        (corpus / name).write_text("no")
    (corpus / "a.txt").write_text("yes")
    assert list(documents(str(corpus))) == list(documents(str(corpus))) == ["yes"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith("4 files of other kinds are left out: 2 .csv, 1 .TXT, 1 .gz")


def test_cached_tokens_that_are_damaged_are_made_anew(load, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "cache"))
    source = write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    expected = load(source)
    (cached,) = (tmp_path / "cache" / "tokens").glob("*.safetensors")
    whole = cached.read_bytes()
    for damaged in (b"", whole[:-4], whole[:-1] + bytes([whole[-1] ^ 1]), b"x" * len(whole)):
        cached.write_bytes(damaged)
        caplog.clear()
        assert load(source).hash == expected.hash
        assert "made anew" in caplog.text
        assert cached.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_done_without(load, tmp_path, monkeypatch, caplog):
    source = write_jsonl(tmp_path / "a.jsonl", DOCUMENTS)
    expected = load(source)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "file"))
    assert load(source).hash == load(source).hash == expected.hash
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("the cache is not used: ")
    assert str(tmp_path / "file") in told


@pytest.mark.skipif("EVO_DATA" not in os.environ, reason="EVO_DATA is not set")
def test_wikitext_with_pythias_tokenizer(tmp_path):
    data = Path(os.environ["EVO_DATA"])
    shutil.copy(data / "pythia-tokenizer.json", tmp_path / "tokenizer.json")
    tokenizer = Tokenizer(tmp_path)
    source = str(data / "wikitext2-valid.txt")
    text = load_text(source, tokenizer=tokenizer, vocabulary=50277, sequence_length=2048)
    content = (data / "wikitext2-valid.txt").read_text(encoding="utf-8")
    decoded = tokenizer.decode(text.blocks.ravel())
    assert content.startswith(decoded.rstrip("\N{REPLACEMENT CHARACTER}"))
    assert text.tokens > 240_000
