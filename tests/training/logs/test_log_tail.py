from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from evo.errors import UserError
from training.logs import log, log_tail
from training.logs.log_tail import LogReader, Row


class Told:
    """What a watcher would hold: rows after each restart."""

    def __init__(self) -> None:
        self.restarts, self.steps, self.closed = 0, [], False

    def restart(self) -> None:
        self.restarts += 1
        self.steps = []

    def rows(self, rows: list[Row]) -> None:
        assert rows
        self.steps += [row["step"] for row in rows]

    def close(self) -> None:
        self.closed = True


class Full(Told):
    """A watcher whose disk is full."""

    def rows(self, rows: list[Row]) -> None:
        raise OSError("no space left")


class Broken(Told):
    def rows(self, rows: list[Row]) -> None:
        raise LookupError("of a library")


def test_new_whole_lines_are_read_once(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    assert reader.read() == (False, [])
    log.append(tmp_path, {"step": 0})
    assert reader.read() == (True, [{"step": 0}])
    with (tmp_path / log.LOG).open("a") as file:
        file.write('{"step": 1}\n{"step": ')
        file.flush()
        assert reader.read() == (False, [{"step": 1}])
        assert reader.read() == (False, [])
        file.write("2}\n")
    assert reader.read() == (False, [{"step": 2}])
    reader.close()


def test_a_log_that_is_cut_back_is_told_anew_even_when_it_has_grown_since(tmp_path: Path) -> None:
    reader = LogReader(tmp_path)
    for step in range(4):
        log.append(tmp_path, {"step": step})
    assert len(reader.read()[1]) == 4
    for _ in range(3):  # a freed inode is often the next one given out
        log.cut_back(tmp_path, 1)
    for step in range(2, 7):
        log.append(tmp_path, {"step": step})
    is_anew, rows = reader.read()
    assert is_anew
    assert [row["step"] for row in rows] == list(range(7))
    reader.close()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / log.LOG).write_text('{"step": 0}\nnonsense\n')
    with pytest.raises(UserError, match=r"log\.jsonl is damaged .*: line 2 is no row"):
        LogReader(tmp_path).read()


def test_all_is_told_although_one_watcher_fails_and_the_end_comes_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_tail, "REFRESH_SECONDS", 0.01)
    told = Told()
    with caplog.at_level(logging.WARNING, "evo.training"):
        with log_tail.log_tail(tmp_path, [Full(), Broken(), told]):
            for step in range(5):
                log.append(tmp_path, {"step": step})
            deadline = time.monotonic() + 20
            while len(told.steps) < 5:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert (told.restarts, told.steps, told.closed) == (1, list(range(5)), True)
    assert [record.getMessage() for record in caplog.records] == [
        "Full: no space left; the run goes on without it",
        "Broken: of a library; the run goes on without it",
    ]
    monkeypatch.setattr(log_tail, "REFRESH_SECONDS", 60)
    late = Told()
    with log_tail.log_tail(tmp_path, [late]):
        pass
    assert late.steps == list(range(5))  # what is logged before the end is passed on before it
