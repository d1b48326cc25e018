"""`datasets` reads a local directory as it reads a repository of the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evo.data import hub
from evo.data.hub import attempt, pause, pin_sources, resumed
from evo.data.prepared_corpus import Manifest
from evo.data.token_shards import map_tokens
from evo.errors import UserError
from tests.support import tiny_checkpoints
from tests.support.bpe import write_tokenizer
from tests.support.corpora import random_documents, write_jsonl
from tests.support.hub_server import REPOSITORY, Hub, running_hub


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for number in range(2):
        write_jsonl(tmp_path / "data" / f"train-{number}.jsonl", random_documents(300, number))
    return tmp_path / "data"


def expected() -> list[str]:
    return random_documents(300, 0) + random_documents(300, 1)


def test_documents_of_some_files_are_in_order(repository: Path) -> None:
    source = f"hf:{repository}:train"
    assert hub.files(source) == 2
    assert list(hub.documents(source)) == expected()
    assert list(hub.documents(source, 1)) == expected()[300:]
    assert list(hub.documents(source, 0, 1)) == expected()[:300]


def test_a_file_that_comes_back_is_read_on_from_where_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "WAITS", (0.2,) * 20)
    source, second = f"hf:{repository}:train", repository / "train-1.jsonl"
    found = hub.documents(source)
    texts = [next(found) for _ in range(300)]
    away = second.rename(repository / "away")
    back = threading.Thread(target=lambda: (time.sleep(1), away.rename(second)))
    back.start()
    texts += list(found)
    back.join()
    assert texts == expected()


def test_a_file_that_stays_away_ends_it_in_one_line(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "WAITS", (0.1, 0.1))
    source = f"hf:{repository}:train"
    found = hub.documents(source)
    next(found)
    for path in repository.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="cannot be read from the hub") as caught:
        list(found)
    assert "\n" not in str(caught.value)


def test_what_cannot_pass_is_not_tried_again(repository: Path) -> None:
    began = time.monotonic()
    for source, message in (
        ("hf:someone/nothing:train", "cannot be read from the hub"),
        (f"hf:{repository}:other", "has no split .other."),
        ("hf:one", "write hf:REPO"),
    ):
        with pytest.raises(UserError, match=message):
            list(hub.documents(source))
    assert time.monotonic() - began < 30


def test_another_version_is_refused(repository: Path) -> None:
    source = f"hf:{repository}:train"
    before = hub.version(source)
    hub._open.cache_clear()  # as in another process
    assert hub.version(source) == before
    write_jsonl(repository / "train-2.jsonl", ["one more"])
    hub._open.cache_clear()
    assert len(list(hub.documents(source))) == 601
    with pytest.raises(UserError, match="has changed on the hub"):
        list(hub.documents(source, expected=before))


def test_a_commit_is_named_in_full(repository: Path) -> None:
    commit = "0123456789" * 4
    assert hub.unpin(f"hf:a/b@{commit}:c:train") == "hf:a/b:c:train"
    assert hub.pin(f"hf:a/b@{commit}:c:train") == f"hf:a/b@{commit}:c:train"
    with pytest.raises(UserError, match="'main' is no commit, which has 40"):
        hub.unpin("hf:a/b@main:train")
    local = f"hf:{repository}:train"
    assert pin_sources([local, "a.txt"], repository, "text") == [local, "a.txt"]
    directory = repository.rename(repository.with_name("data@main"))
    assert hub.unpin(f"hf:{directory}:train") == hub.pin(f"hf:{directory}:train")


def test_a_local_data_set_is_the_same_however_it_is_spelled(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository.parent)
    source = f"hf:{repository}:train"
    for same in (f"hf:{repository.name}:train", f"hf:./{repository.name}:train"):
        assert hub.absolute(same) == source
    known = hub.identity(source, hub.version(source))
    moved = repository.rename(repository.with_name("moved"))
    os.utime(moved / "train-0.jsonl")
    assert hub.identity(f"hf:{moved}:train", None) == known
    with (moved / "train-0.jsonl").open("a") as file:
        file.write(json.dumps({"text": "more"}) + "\n")
    hub._open.cache_clear()
    assert hub.identity(f"hf:{moved}:train", None) != known


def test_a_repository_may_be_called_like_a_part_of_its_source() -> None:
    commit = "0123456789" * 4
    assert hub.unpin(f"hf:f@{commit}:train") == "hf:f:train"
    assert str(hub._name("hf:f:train")._replace(commit=commit)) == f"hf:f@{commit}:train"


def jsonl(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def command(server: Hub, home: Path, *flags: object) -> str:
    """What a command says, run with this hub."""
    environment = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "evo", *map(str, flags)],
        env=os.environ | environment | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_later_commit_changes_nothing_for_a_corpus_that_was_begun(tmp_path: Path) -> None:
    model, out = write_tokenizer(tmp_path / "model"), tmp_path / "out"
    with running_hub() as server:
        first = server.commit({"train-0.jsonl": jsonl("the fox"), "train-1.jsonl": jsonl("a dog")})

        def prepared(source: str) -> list[int]:
            flags = ("--text", source, "--tokenizer", model, "--out", out)
            command(server, tmp_path / "home", "prepare", *flags)
            shards = Manifest.load(out).shards
            return [int(token) for one in shards for token in map_tokens(out / one.file)]

        before = prepared(f"hf:{REPOSITORY}:train")
        assert Manifest.load(out).text == [f"hf:{REPOSITORY}@{first}:train"]
        server.commit({"train-0.jsonl": jsonl("something else altogether")})
        (out / "00001.arrow").unlink()
        assert prepared(f"hf:{REPOSITORY}:train") == before
        pinned = f"hf:{REPOSITORY}@{first}:train"
        assert pin_sources([pinned], out, "text") == Manifest.load(out).text == [pinned]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_later_commit_changes_nothing_for_a_run_that_was_begun(tmp_path: Path) -> None:
    model = tiny_checkpoints.neox(tmp_path / "model", vocabulary=300, padded=320)
    write_tokenizer(tmp_path / "model")
    source = f"hf:{REPOSITORY}:train"
    flags = ("--model", model, "--text", source, "--validation-text", source)
    flags += (
        "--tokens",
        64,
        "--shuffle-tokens",
        64,
        "--sequence-length",
        16,
        "--out",
        tmp_path / "run",
    )
    with running_hub() as server:
        server.commit({"train-0.jsonl": jsonl("the quick brown fox " * 40)})
        command(server, tmp_path / "home", "pretrain", *flags)
        server.commit({"train-0.jsonl": jsonl("something else altogether " * 40)})
        assert "is finished" in command(server, tmp_path / "home", "pretrain", *flags)


def test_what_is_read_goes_on_where_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "WAITS", (0, 0))
    fails = [3, 0, 4, 4, 9]  # more than there are waits, but never three times in one place

    def read() -> Iterator[int]:
        stop = fails.pop(0)
        for number in range(9):
            if number == stop:
                raise OSError(5, "away")
            yield number

    def failed(error: Exception, waits: Iterator[float]) -> None:
        if not pause("it", error, waits):
            raise error

    assert list(resumed(read, failed)) == list(range(9))
    assert fails == []
    with pytest.raises(FileNotFoundError):
        attempt(Path("/nowhere").read_bytes, failed)
