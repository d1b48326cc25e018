"""`datasets` reads a local directory as it reads a repository of the hub."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from evo import hub
from evo.errors import UserError
from tests.corpora import random_documents, write_jsonl


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
