from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evo.data.chunks import Piece, pieces_of
from evo.data.sources import Part, documents
from evo.data.token_blocks import npy_tokens
from evo.errors import UserError
from tests.support.corpora import random_documents, write_jsonl, write_mixed


def read(pieces: list[Piece]) -> list[str]:
    return [text for piece in pieces for part in piece.parts for text in part.documents()]


@pytest.mark.parametrize("most", [1, 50, 333, 2000, 10**6])
def test_the_pieces_documents_are_the_corpus(tmp_path: Path, most: int) -> None:
    texts = write_mixed(tmp_path / "corpus")
    pieces = pieces_of([str(tmp_path / "corpus")], most)
    assert read(pieces) == texts == list(documents(str(tmp_path / "corpus")))
    assert all(piece.size <= most for piece in pieces if len(piece.parts) > 1)
    if most == 10**6:
        assert len(pieces) == 1


def test_lines_belong_to_the_piece_in_which_they_begin(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", random_documents(9, seed=5, most=4))
    size, texts = path.stat().st_size, list(Part(str(path), path).documents())
    for cut in range(size + 1):
        both = [Part(str(path), path, 0, cut), Part(str(path), path, cut)]
        assert [text for part in both for text in part.documents()] == texts


def test_a_large_file_is_divided_evenly(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", random_documents(300, seed=1))
    size = path.stat().st_size
    pieces = pieces_of([str(path)], size // 4)
    assert len(pieces) == 4
    assert sum(piece.size for piece in pieces) == size
    assert max(len(read([piece])) for piece in pieces) < 90


def test_token_ids_are_divided_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000, dtype=np.uint16))
    parts = [part for piece in pieces_of([str(tmp_path)], 1000) for part in piece.parts]
    assert [(part.start, part.stop) for part in parts] == [
        (0, 250), (250, 500), (500, 750), (750, 1000)
    ]  # fmt: skip


def test_the_line_of_an_error_is_counted_from_the_start_of_the_file(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", random_documents(50, seed=2))
    path.write_text(path.read_text() + "no JSON\n")
    last = pieces_of([str(path)], 500)[-1]
    with pytest.raises(UserError, match=r"a\.jsonl, line 51: no JSON object"):
        read([last])


def test_empty_files_are_in_no_piece(tmp_path: Path) -> None:
    for name in ("a.txt", "c.txt", "e.jsonl", "g.txt"):
        (tmp_path / name).touch()
    for name in ("b.txt", "d.txt", "f.txt"):
        (tmp_path / name).write_text(name)
    (piece,) = pieces_of([str(tmp_path)])
    assert read([piece]) == ["b.txt", "d.txt", "f.txt"]
    assert piece.size == 15
    assert pieces_of([str(tmp_path / "a.txt"), str(tmp_path / "e.jsonl")]) == []


def test_what_is_of_unknown_size_stays_alone(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    files = [str(tmp_path / name) for name in ("a.txt", "b.txt")]
    pieces = pieces_of([files[0], "stdlib:validation", *files])
    assert [piece.size for piece in pieces] == [5, None, 10]


def test_parts_are_found_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster's tasks run in other ones than the command."""
    (tmp_path / "corpus").mkdir()
    write_jsonl(tmp_path / "corpus" / "train-0.jsonl", ["one", "two"])
    np.save(tmp_path / "a.npy", np.arange(9))
    monkeypatch.chdir(tmp_path)
    pieces = [piece for name in ("corpus", "hf:corpus:train") for piece in pieces_of([name])]
    tokens = [part for piece in pieces_of(["a.npy"]) for part in piece.parts]
    monkeypatch.chdir("/")
    assert read(pieces) == ["one", "two"] * 2
    assert [len(some) for part in tokens for some in npy_tokens(part)] == [9]


def test_every_file_of_the_hub_is_a_piece(tmp_path: Path) -> None:
    """A local directory is what `datasets` takes in place of a repository."""
    texts = [random_documents(4, seed) for seed in range(3)]
    for number, some in enumerate(texts):
        write_jsonl(tmp_path / f"train-{number}.jsonl", some)
    pieces = pieces_of([f"hf:{tmp_path}:train"])
    assert len(pieces) == 3
    assert read(pieces) == [text for some in texts for text in some]
