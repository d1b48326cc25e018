from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from evo.data import text_files
from evo.data.sources import documents
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer
from evo.ray_connection import connect
from tests.support.bpe import write_tokenizer
from tests.support.corpora import stream, write_jsonl, write_mixed
from training.data.sampler import Extent, Sampler
from training.data.stream import (
    APART,
    BlockStream,
    StreamedBlocks,
    StreamedText,
    TextPosition,
    WindowReader,
    parts_of,
    windows_to_keep,
)

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


LENGTH = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("evo.data.chunks.CHUNK_BYTES", 1500)
    write_mixed(tmp_path / "corpus")
    np.save(tmp_path / "corpus" / "z.npy", np.arange(50))
    return str(tmp_path / "corpus")


@pytest.fixture
def expected(corpus: str, model: Path) -> np.ndarray:
    """The blocks of three times the text without an end."""
    once = np.concatenate([stream(list(documents_of(corpus)), Tokenizer(model)), np.arange(50)])
    thrice = np.tile(once, 3)
    return thrice[: len(thrice) // LENGTH * LENGTH].reshape(-1, LENGTH)


def documents_of(corpus: str) -> list[str]:
    names = sorted(path for path in Path(corpus).rglob("*") if path.suffix not in (".npy", ".md"))
    return [text for name in names if name.is_file() for text in documents(str(name))]


def streamed(corpus: str, model: Path, window: int = 10, vocabulary: int = 300) -> StreamedText:
    return StreamedText(corpus, parts_of(corpus), model, vocabulary, LENGTH, window)


def test_blocks_come_in_order_and_again(corpus: str, model: Path, expected: np.ndarray) -> None:
    read = BlockStream(parts_of(corpus), Tokenizer(model), LENGTH)
    counts = [1, 7, 0, len(expected) - 8]
    assert np.array_equal(np.concatenate([read.read(n) for n in counts]), expected)


def test_it_goes_on_at_any_block(corpus: str, model: Path, expected: np.ndarray) -> None:
    first = BlockStream(parts_of(corpus), Tokenizer(model), LENGTH)
    for number in range(0, len(expected) - 3, 11):
        again = BlockStream(parts_of(corpus), Tokenizer(model), LENGTH, first.position)
        assert np.array_equal(again.read(3), expected[number : number + 3])
        first.read(11)


def test_text_without_any_ends(tmp_path: Path, model: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", ["", ""])
    with pytest.raises(UserError, match="is empty"):
        BlockStream(parts_of(str(tmp_path / "a.jsonl")), Tokenizer(model), LENGTH)


def read(reader: WindowReader, number: int) -> np.ndarray:
    return ray.get(reader.window(number)[0])


def test_windows_can_be_read_in_any_order_by_any_reader(
    corpus: str, model: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    connect()
    text, places = streamed(corpus, model), tmp_path / "places.jsonl"
    reader = WindowReader(text, places, 3)
    for number in (0, 1, 0, 6, 2, 9):
        window = expected[10 * number : 10 * number + 10]
        assert np.array_equal(read(reader, number), window)
    assert reader.window(9) == reader.window(9)  # one object for all workers
    known = places.read_text().splitlines()
    assert len(known) == 11
    with places.open("a") as file:
        file.write("[11, 3, 2")  # cut off
    again = WindowReader(text, places, 3)
    assert np.array_equal(read(again, 8), expected[80:90])
    assert again._next == 9  # it read nothing before that
    assert np.array_equal(read(again, 11), expected[110:120])
    third = WindowReader(text, places, 3)
    assert np.array_equal(read(third, 12), expected[120:130])
    assert third._next == 13


@pytest.mark.parametrize("window", [1, 3, 4, 8, 30])
def test_no_window_is_read_twice_however_far_apart_workers_are(
    corpus: str, model: Path, tmp_path: Path, window: int
) -> None:
    """Of two workers, one is always as many steps ahead of the other as it can be."""
    connect()
    batch, steps = 8, 12
    sampler = Sampler(batch, (Extent(window, is_stream=True),), (1.0,), 0)
    text = replace(streamed(corpus, model), window=window)
    reader = WindowReader(text, tmp_path / "places.jsonl", windows_to_keep(batch, window))
    asked: list[int] = []
    for step in range(steps):
        for number in (step, step - APART):
            if number >= 0:
                blocks = sampler.step(number).share(0, 2).blocks
                asked += sorted(set((blocks // window).tolist()))
    for number in asked:
        before = reader._next
        reader.window(number)
        assert reader._next >= before  # never back
    assert reader._next == max(asked) + 1


def test_token_ids_beyond_the_vocabulary(corpus: str, model: Path, tmp_path: Path) -> None:
    reader = WindowReader(streamed(corpus, model, vocabulary=200), tmp_path / "places.jsonl", 3)
    with pytest.raises(UserError, match="but the model's vocabulary ends at 199"):
        reader.window(0)


def test_token_ids_below_zero(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(-1, 400))
    text = streamed(str(tmp_path / "ids.npy"), model, vocabulary=500)
    with pytest.raises(UserError, match="has token id -1"):
        WindowReader(text, tmp_path / "places.jsonl", 3).window(0)


def test_a_document_that_is_too_large_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("word " * 100)
    monkeypatch.setattr(text_files, "LARGEST_DOCUMENT", 400)
    with pytest.raises(UserError, match=r"one document of .*lines of a \.jsonl"):
        parts_of(str(tmp_path / "a.txt"))


def test_blocks_are_read_by_another_process(
    corpus: str, model: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    connect()
    blocks = StreamedBlocks(streamed(corpus, model), tmp_path / "places.jsonl", 4)
    for start in (0, 5, 12, 30, 31):
        numbers = np.random.default_rng(start).permutation(np.arange(start, start + 9))
        assert np.array_equal(blocks[numbers], expected[numbers])
    assert set(blocks._asked) == {3, 4}
    assert TextPosition() == TextPosition(0, 0, 0)
