from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evo.data.chunks import Chunk, chunks_of
from evo.data.reading.npy_files import npy_tokens
from evo.data.sources import SourceRange, documents
from evo.errors import UserError
from tests.support.corpora import random_documents, write_jsonl, write_mixed


def read(chunks: list[Chunk]) -> list[str]:
    return [text for chunk in chunks for part in chunk.parts for text in part.documents()]


@pytest.mark.parametrize("most", [1, 50, 333, 2000, 10**6])
def test_the_pieces_documents_are_the_corpus(tmp_path: Path, most: int) -> None:
    texts = write_mixed(tmp_path / "corpus")
    chunks = chunks_of([str(tmp_path / "corpus")], most)
    assert read(chunks) == texts == list(documents(str(tmp_path / "corpus")))
    assert all(chunk.size <= most for chunk in chunks if len(chunk.parts) > 1)
    if most == 10**6:
        assert len(chunks) == 1


def test_lines_belong_to_the_piece_in_which_they_begin(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", random_documents(9, seed=5, most=4))
    size, texts = path.stat().st_size, list(SourceRange(str(path), path).documents())
    for cut in range(size + 1):
        both = [SourceRange(str(path), path, 0, cut), SourceRange(str(path), path, cut)]
        assert [text for part in both for text in part.documents()] == texts


def test_a_large_file_is_divided_evenly(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", random_documents(300, seed=1))
    size = path.stat().st_size
    chunks = chunks_of([str(path)], size // 4)
    assert len(chunks) == 4
    assert sum(chunk.size for chunk in chunks) == size
    assert max(len(read([chunk])) for chunk in chunks) < 90


def test_token_ids_are_divided_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000, dtype=np.uint16))
    parts = [part for chunk in chunks_of([str(tmp_path)], 1000) for part in chunk.parts]
    assert [(part.start, part.stop) for part in parts] == [
        (0, 250), (250, 500), (500, 750), (750, 1000)
    ]  # fmt: skip


def test_the_line_of_an_error_is_counted_from_the_start_of_the_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", random_documents(50, seed=2))
    path.write_text(path.read_text() + "no JSON\n")
    last = chunks_of([str(path)], 500)[-1]
    with pytest.raises(UserError, match=r"a\.jsonl, line 51: no JSON object"):
        read([last])


def test_empty_files_are_in_no_piece(tmp_path: Path) -> None:
    for name in ("a.txt", "c.txt", "e.jsonl", "g.txt"):
        (tmp_path / name).touch()
    for name in ("b.txt", "d.txt", "f.txt"):
        (tmp_path / name).write_text(name)
    (chunk,) = chunks_of([str(tmp_path)])
    assert read([chunk]) == ["b.txt", "d.txt", "f.txt"]
    assert chunk.size == 15
    assert chunks_of([str(tmp_path / "a.txt"), str(tmp_path / "e.jsonl")]) == []


def test_what_is_of_unknown_size_stays_alone(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    chunks = chunks_of([files[0], "stdlib:validation", *files])
    assert [chunk.size for chunk in chunks] == [5, None, 10]


def test_parts_are_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster's tasks run in other ones than the command."""
    (tmp_path / "corpus").mkdir()
    write_jsonl(tmp_path / "corpus" / "train-0.jsonl", ["one", "two"])
    np.save(tmp_path / "a.npy", np.arange(9))
    monkeypatch.chdir(tmp_path)
    chunks = [chunk for name in ("corpus", "hf:corpus:train") for chunk in chunks_of([name])]
    tokens = [part for chunk in chunks_of(["a.npy"]) for part in chunk.parts]
    monkeypatch.chdir("/")
    assert read(chunks) == ["one", "two"] * 2
    assert [len(some) for part in tokens for some in npy_tokens(part)] == [9]


def test_every_file_of_the_hub_is_a_piece(tmp_path: Path) -> None:
    """A local directory is what `datasets` takes in place of a repository."""
    texts = [random_documents(4, seed) for seed in range(3)]
    for number, some in enumerate(texts):
        write_jsonl(tmp_path / f"train-{number}.jsonl", some)
    chunks = chunks_of([f"hf:{tmp_path}:train"])
    assert len(chunks) == 3
    assert read(chunks) == [text for some in texts for text in some]
