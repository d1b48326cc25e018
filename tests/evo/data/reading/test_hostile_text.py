"""Text that is damaged, odd or hostile is read right, or refused with one line.

Files of every kind are cut off, changed byte by byte, added to, or made of any bytes; lines hold
any JSON; directories have links that lead anywhere.
"""

import gzip
import io
import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from evo.cli import main
from evo.data.chunks import chunks_of
from evo.data.reading import Reading
from evo.data.reading.text_paths import text_paths
from evo.data.sources import documents
from evo.data.token_blocks import load_text
from evo.data.tokenise_chunk import tokenise_chunk
from evo.embedded import teacher_path
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer
from tests.support.bpe import write_tokenizer
from tests.support.properties import examples, holds, result_or_refusal

SKIP = Reading(on_bad_line="skip")
TEXTS = st.lists(st.text(max_size=40), min_size=1, max_size=6)


def lines_of(texts):
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def parquet_of(texts):
    content = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), content, row_group_size=2)
    return content.getvalue()


def npy_of(texts):
    content = io.BytesIO()
    np.save(content, np.frombuffer("\n".join(texts).encode("utf-8", "replace") + b"..", np.uint8))
    return content.getvalue()


WRITERS = {
    ".txt": lambda texts: "\n".join(texts).encode("utf-8", "replace"),
    ".jsonl": lines_of,
    ".jsonl.gz": lambda texts: gzip.compress(lines_of(texts), mtime=0),
    ".jsonl.zst": lambda texts: pa.compress(lines_of(texts), codec="zstd", asbytes=True),
    ".parquet": parquet_of,
    ".npy": npy_of,
}


@st.composite
def damaged(draw, whole):
    """A file's content, after some damage."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        kind = draw(st.sampled_from(["cut", "flip", "insert", "zeros", "double", "replace"]))
        if kind == "cut":
            del content[place:]
        elif kind == "flip" and content:
            content[place % len(content)] ^= draw(st.integers(1, 255))
        elif kind == "insert":
            content[place:place] = draw(st.binary(max_size=20))
        elif kind == "zeros":
            content[len(content) :] = b"\0" * draw(st.sampled_from([1, 512, 70_000]))
        elif kind == "double":
            content[:] = bytes(content) * 2
        elif kind == "replace":
            content[:] = draw(st.binary(max_size=200))
    return bytes(content)


@st.composite
def files(draw, suffix):
    """A file's whole content, what it holds, and the same damaged."""
    texts = draw(TEXTS)
    whole = WRITERS[suffix](texts)
    return texts, whole, draw(damaged(whole))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return Tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@examples(60)
@pytest.mark.parametrize("suffix", WRITERS)
def test_a_damaged_file_is_read_right_or_refused(
    suffix, examples, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "cache"))
    path, out = tmp_path / f"a{suffix}", tmp_path / "out"
    out.mkdir()

    def check(file):
        path.write_bytes(file[2])
        for reading in (Reading(), SKIP):
            read_twice(path, reading, tokenizer)
            if suffix != ".npy":
                read_documents(path, reading, *file)
        result_or_refusal(lambda: tokenise_all(path, tokenizer, out))
        assert not [name for name in os.listdir(out) if name.endswith(".tmp")]

    holds(check, examples, files(suffix))


def read_twice(path, reading, tokenizer):
    """The second time from the cache."""
    how = {"tokenizer": tokenizer, "vocabulary": 300, "sequence_length": 2, "reading": reading}
    found = result_or_refusal(lambda: load_text(str(path), **how))
    again = result_or_refusal(lambda: load_text(str(path), **how))
    if isinstance(found, UserError):
        assert str(again) == str(found)
        assert path.name in str(found)
    else:
        assert found.hash == again.hash


def read_documents(path, reading, texts, whole, content):
    read = result_or_refusal(lambda: list(documents(str(path), reading)))
    if content == whole and path.suffix != ".txt":
        assert read == texts
    if not isinstance(read, UserError):
        assert all(isinstance(text, str) for text in read)


def tokenise_all(path, tokenizer, out):
    for number, chunk in enumerate(chunks_of([str(path)])):
        tokenise_chunk(number, chunk, tokenizer, out)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
GOOD = st.fixed_dictionaries({"text": st.none() | st.text(max_size=20)}, optional={"id": JSON})
LINES = st.lists(
    GOOD.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({"text": JSON}).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=20).map(lambda line: line.replace(b"\n", b""))
    | st.sampled_from([b"[" * 5000, b'{"text":' * 5000, b"9" * 5000, b"\xef\xbb\xbf{}", b"\0"]),
    max_size=8,
)


def expected(lines):
    """What plain Python finds in lines: texts, and how many hold none."""
    texts, bad = [], 0
    for line in filter(bytes.strip, lines):
        value = None
        with suppress(ValueError, RecursionError):
            value = json.loads(line)
        if isinstance(value, dict) and isinstance(value.get("text", 0), str | None):
            texts.append(value["text"] or "")
        else:
            bad += 1
    return texts, bad


@examples(150)
def test_lines_of_any_json_are_texts_or_bad_lines(examples, tmp_path):
    path = tmp_path / "a.jsonl"

    def check(lines):
        path.write_bytes(b"\n".join(lines))
        texts, bad = expected(lines)
        assert list(documents(str(path), SKIP)) == texts
        found = result_or_refusal(lambda: list(documents(str(path))))
        if bad:
            assert "no JSON object with a field `text`" in str(found)
        else:
            assert found == texts

    holds(check, examples, LINES)


@examples(60)
def test_parts_of_a_file_are_together_the_whole(examples, tmp_path):
    path = tmp_path / "a.jsonl"

    def check(lines, most):
        path.write_bytes(b"\n".join(lines))
        chunks = chunks_of([str(path)], most, SKIP)
        read = [text for chunk in chunks for part in chunk.parts for text in part.documents()]
        assert read == expected(lines)[0]

    holds(check, examples, LINES, st.integers(20, 400))


NAMES = st.sampled_from(["a.txt", "b.txt", "c.md", "d", "e", ".f", "x"])
PLACES = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/".join(names))


@examples(60)
def test_directories_with_links_that_lead_anywhere(examples, tmp_path):
    count = iter(range(10**9))

    def check(entries):
        root = tmp_path / str(next(count))
        root.mkdir()
        for place, target in entries:
            with suppress(OSError):  # a file where there should be a directory
                path = root / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(target) if target else path.write_text(place)
        found = text_paths(str(root))
        plain = [Path(base, name) for base, _, names in os.walk(root) for name in names]
        wanted = {path for path in plain if path.suffix == ".txt" and path.is_file()}
        assert {path for path in wanted if visible(path, root)} <= set(found)
        places = [(path.parent.resolve(), path.name) for path in found]
        assert len(set(places)) == len(places)
        assert all(path.is_file() for path in found)

    targets = st.none() | st.sampled_from(["", ".", "..", "d", "e", "../d", "/", "x", "a.txt"])
    holds(check, examples, st.lists(st.tuples(PLACES, targets), max_size=10))


def visible(path, root):
    return not any(name.startswith(".") for name in path.relative_to(root).parts)


@pytest.mark.parametrize("suffix", WRITERS)
@examples(1)
def test_the_command_ends_with_one_line_or_a_result(
    suffix, examples, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()

    def check(file, more):
        path = Path("in", f"a{suffix}")
        path.write_bytes(file[2])
        arguments = ["eval", str(teacher_path()), "--text", str(path), "--sequence-length", "2"]
        code = main([*arguments, "--max-tokens", "8", *more, "--out", "result.json"])
        printed = capsys.readouterr()
        if code == 0:
            assert json.loads(printed.out)["tokens"] >= 1
            Path("result.json").unlink()
        else:
            assert code == 2
            (line,) = printed.err.splitlines()
            assert line.startswith("evo eval: ")
        assert os.listdir() == ["in"]

    reading = st.sampled_from([[], ["--on-bad-line=skip"], ["--text-field=x"], ["--bos=block"]])
    holds(check, examples * 4, files(suffix), reading)
