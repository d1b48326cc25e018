"""Runs on a real Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evo.cli import main
from evo.data import text_files
from evo.data.chunks import Chunk, chunks_of
from evo.data.config import PrepareConfig
from evo.data.prepare import _tokenise, prepare
from evo.data.prepared_corpus import Manifest, open_blocks
from evo.data.sources import SourceRange, documents
from evo.data.token_blocks import load_text
from evo.data.token_shards import Blocks
from evo.data.tokenise_chunk import read_record, tokenise_chunk
from evo.errors import UserError
from evo.model.tokenizer import Tokenizer
from evo.ray_connection import connect
from tests.support.bpe import write_tokenizer
from tests.support.corpora import random_documents, stream, write_jsonl, write_mixed

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def write_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"text": texts}), path)


SMALL = 1500
"""Bytes of a chunk, so that there are some."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tokenizer."""
    return write_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> PrepareConfig:
    """Of a small corpus of 14 chunks."""
    monkeypatch.setattr("evo.data.chunks.CHUNK_BYTES", SMALL)
    connect()
    write_mixed(tmp_path / "corpus")
    return PrepareConfig([str(tmp_path / "corpus")], model, tmp_path / "prepared")


@pytest.fixture
def expected(config: PrepareConfig, model: Path) -> np.ndarray:
    """What plain tokenisation gives."""
    return stream(list(documents(config.sources[0])), Tokenizer(model))


def read(directory: Path) -> np.ndarray:
    """The whole stream, as anybody reads Arrow files."""
    return np.concatenate(
        [
            pa.ipc.open_file(directory / shard.file).read_all()["tokens"].to_numpy()
            for shard in Manifest.load(directory).shards
        ]
    )


def shards(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.glob("*.arrow")}


def changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def test_the_stream_is_that_of_plain_tokenisation(
    config: PrepareConfig, model: Path, expected: np.ndarray
) -> None:
    made = prepare(config)
    assert np.array_equal(read(config.out), expected)
    assert made.tokens == len(expected)
    assert made.documents == sum(map(bool, documents(config.sources[0])))
    assert len(made.shards) > 10
    listed = [(Path(one["name"]).name, one["bytes"]) for one in made.files]
    assert listed[:2] == [
        (name, (Path(config.sources[0]) / name).stat().st_size) for name in ("a.jsonl", "b.parquet")
    ]
    plain, found = (
        load_text(source, tokenizer=Tokenizer(model), vocabulary=300, sequence_length=16)
        for source in (config.sources[0], str(config.out))
    )
    assert found.hash == plain.hash


def test_the_number_of_workers_changes_nothing(config: PrepareConfig, tmp_path: Path) -> None:
    one, two = (
        replace(config, out=tmp_path / str(n), workers=n, sequence_length=16) for n in (1, 2)
    )
    assert prepare(one) == prepare(two)
    assert Manifest.load(one.out).sequence_length == 16
    assert shards(one.out) == shards(two.out)


def test_large_pieces_become_several_shards(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo.data.tokenise_chunk.SHARD_TOKENS", 1000)
    texts = random_documents(200, seed=9)
    np.save(tmp_path / "z.npy", np.arange(300).repeat(20))
    write_jsonl(tmp_path / "a.jsonl", texts)
    (chunk,) = chunks_of([str(tmp_path / "*.[jn]*")], 10**6)
    record = tokenise_chunk(7, chunk, Tokenizer(model), tmp_path)
    assert [shard.tokens for shard in record.shards][:-1] == [1000] * (len(record.shards) - 1)
    assert record.shards[1].file == "00007-1.arrow"
    assert record == read_record(tmp_path, 7)
    blocks = Blocks(tmp_path, record.shards, 1)[:].ravel()
    whole = [stream(texts, Tokenizer(model)), np.arange(300).repeat(20)]
    assert np.array_equal(blocks, np.concatenate(whole))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_run_again_it_makes_no_finished_shard_again(
    config: PrepareConfig, expected: np.ndarray
) -> None:
    command = (
        "import sys; from pathlib import Path; from evo.data import chunks\n"
        "from evo.data.config import PrepareConfig\n"
        "from evo.data.prepare import prepare\n"
        f"chunks.CHUNK_BYTES = {SMALL}\n"
        "prepare(PrepareConfig([sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]), workers=1))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", command, *config.sources, config.tokenizer, config.out],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(list((config.out / "records").glob("*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1)  # its workers end when they miss it
    assert not (config.out / "manifest.json").exists()
    finished = {
        path.stem: changed(config.out / f"{path.stem}.arrow")
        for path in (config.out / "records").glob("*.json")
    }
    assert 3 <= len(finished) < 14
    with pytest.raises(UserError, match="is not finished: run the same `evo prepare` again"):
        open_blocks(str(config.out), tokenizer=None, vocabulary=300, sequence_length=2)
    (config.out / ".00009.arrow.1.tmp").write_bytes(b"half")
    prepare(config)
    assert np.array_equal(read(config.out), expected)
    assert {name: changed(config.out / f"{name}.arrow") for name in finished} == finished
    assert not list(config.out.glob(".*.tmp"))


def test_a_killed_worker_is_replaced(config: PrepareConfig, expected: np.ndarray) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if any("ray::" in part and "ap(" in part for part in child.cmdline()):
                        child.kill()
                        killed.append(child.pid)
                        return
            time.sleep(0.002)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    prepare(config)
    killer.join(1)
    assert killed
    assert np.array_equal(read(config.out), expected)


class Deadly(Chunk):
    """Kills every worker that is given it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (1,)


@pytest.mark.slow
def test_a_piece_that_kills_every_worker_ends_it(config: PrepareConfig) -> None:
    first, *_, last = chunks_of(config.sources)
    (config.out / "records").mkdir(parents=True)
    with pytest.raises(UserError, match=r"d\.jsonl\.gz: 5 workers died of it") as caught:
        list(_tokenise([0, 1], [first, Deadly(last.parts, 0)], config))
    assert "\n" not in str(caught.value)


def test_what_nobody_expected_is_one_line_with_the_name(
    config: PrepareConfig, model: Path, tmp_path: Path
) -> None:
    path = Path(config.sources[0]) / "a.jsonl"
    (config.out / "records").mkdir(parents=True)
    odd = Chunk((SourceRange(str(path), path, start="a"),), 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"a\.jsonl cannot be tokenised: TypeError: ") as caught:
        list(_tokenise([0], [odd], config))
    assert "\n" not in str(caught.value)


def test_a_document_that_is_too_large_is_refused(
    config: PrepareConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "LARGEST_DOCUMENT", 400)
    writers = {"a.jsonl": write_jsonl, "b.parquet": write_parquet}
    for name, write in writers.items():
        path = Path(config.sources[0]) / name
        part = SourceRange(str(path), path)
        list(part.documents())
        write(path, ["word " * 81])
        with pytest.raises(UserError, match=f"{path.name} has one document of .*too large"):
            list(part.documents())


def test_a_finished_corpus_is_checked_and_mended(
    config: PrepareConfig, expected: np.ndarray
) -> None:
    first = prepare(config)
    before = {name: changed(config.out / name) for name in shards(config.out)}
    assert prepare(config) == first
    (config.out / "00003.arrow").write_bytes(b"damaged")
    (config.out / "00004.arrow").unlink()
    with pytest.raises(UserError, match="--sequence-length was not given, now it is 16"):
        prepare(replace(config, sequence_length=16))
    assert prepare(config) == first
    assert np.array_equal(read(config.out), expected)
    anew = {name for name, stamp in before.items() if changed(config.out / name) != stamp}
    assert anew == {"00003.arrow", "00004.arrow"}


def test_only_what_was_changed_is_made_again(config: PrepareConfig, expected: np.ndarray) -> None:
    first = prepare(config)
    before = {name: changed(config.out / name) for name in shards(config.out)}
    (Path(config.sources[0]) / "deep" / "d.jsonl.gz").touch()  # as a copy of the corpus is
    record = config.out / "records" / "00003.json"
    record.write_bytes(record.read_bytes()[:40])  # cut off
    (config.out / "records" / "00004.json").write_bytes(b"")
    assert prepare(config) == first
    assert np.array_equal(read(config.out), expected)
    anew = {name for name, stamp in before.items() if changed(config.out / name) != stamp}
    assert anew == {"00003.arrow", "00004.arrow", max(before)}


def test_what_cannot_be_read_ends_it_in_one_line(
    config: PrepareConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(config.sources[0]) / "a.jsonl"
    path.write_text(path.read_text() + "{}\n")
    flags = ["--text", *config.sources, "--tokenizer", str(config.tokenizer), "--out"]
    assert main(["prepare", *flags, str(config.out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "a.jsonl, line 41: no JSON object with a field `text`" in error
    write_jsonl(path, ["put right"])
    assert main(["prepare", *flags, str(config.out)]) == 2
    assert "the corpus that --text names has other content" in capsys.readouterr().err
    assert main(["prepare", *flags, f"{config.out}-2"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{config.out}-2: ")
    assert said.out.count("\n") == 1
    assert "9/9 chunks" in said.err


def test_bad_input_leaves_nothing_behind(config: PrepareConfig, tmp_path: Path) -> None:
    def refused(message: str, **changes: object) -> None:
        out = tmp_path / "nothing"
        with pytest.raises(UserError, match=message):
            prepare(replace(config, out=out, **changes))
        assert not out.exists()

    refused("no text at", text="nowhere")
    refused("has no tokenizer.json", tokenizer=tmp_path)
    refused("--sequence-length 1", sequence_length=1)
    refused("--workers 0", workers=0)
    corpus = config.sources[0]
    refused("give at least one source, each once", text=[corpus, corpus])
    file = str(Path(corpus) / "deep" / ".." / "c1.txt")
    refused("c1.txt is in --text .*corpus and in --text", text=[corpus, file])
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "manifest.json").write_text("{}")
    refused("prepared already", text=[str(tmp_path / "done")])


def test_token_ids_and_text_that_cannot_be_used(config: PrepareConfig, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    np.save(tmp_path / "rows.npy", np.zeros((3, 4), int))
    np.save(tmp_path / "beyond.npy", np.array([3, 300]))
    for name, message in (
        ("empty.txt", "is empty: there is no text"),
        ("rows.npy", "has rows"),
        ("beyond.npy", "token id 300, but the tokenizer's end at 299"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(replace(config, text=str(tmp_path / name), out=tmp_path / f"{name}-out"))
