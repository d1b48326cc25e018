"""What the loggers write, read back by the libraries that users read it with."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from evo.errors import UserError
from tests.support.heads import wait_until
from training.logs import log, loggers
from training.logs.log_tail import LogReader, Row, Watcher
from training.logs.loggers import (
    CsvFile,
    TensorBoard,
    WeightsAndBiases,
    check_loggers,
    open_loggers,
)
from training.logs.prometheus import Prometheus


def rows(*steps: int, rate: float = 100.0) -> list[Row]:
    """Of a log: the first has no loss, every fourth a validation, all something undrawable."""
    return [
        {"step": step, "tokens": 32 * step, "seconds": 1.5 * step, "blocks": [step, 1]}
        | ({"loss": 4.0 / step, "tokens_per_second": rate} if step else {})
        | ({} if step % 4 else {"validation_perplexity": 50.0 - step})
        for step in steps
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "settings.yaml").write_text("seed: 0\n")
    os.utime(directory / "settings.yaml", (1000.0, 1000.0))
    return directory


def tell(watcher: Watcher, reader: LogReader) -> None:
    is_anew, new = reader.read()
    if is_anew:
        watcher.restart()
    if new:
        watcher.rows(new)


def interrupted(run: Path, open_again: bool, make: type) -> None:
    """Nine steps, of which the last four are lost and done again; perhaps by another process."""
    watcher, reader = make(run), LogReader(run)
    for row in rows(0, 1, 2):
        log.append(run, row)
    tell(watcher, reader)
    for row in rows(3, 4, 5, 6, 7, 8):
        log.append(run, row)
    tell(watcher, reader)
    log.cut_back(run, 4)
    if open_again:  # killed: nothing closed it
        watcher, reader = make(run), LogReader(run)
    for row in rows(5, 6, 7, 8, rate=200.0):
        log.append(run, row)
    tell(watcher, reader)
    watcher.close()
    reader.close()


@pytest.mark.parametrize("open_again", [False, True])
def test_tensorboard_shows_the_log_and_nothing_that_was_cut_off(
    run: Path, open_again: bool
) -> None:
    interrupted(run, open_again, TensorBoard)
    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    logged = log.rows(run)
    assert set(found.Tags()["scalars"]) == {
        "tokens", "seconds", "loss", "tokens_per_second", "validation_perplexity"
    }  # fmt: skip
    for name in found.Tags()["scalars"]:
        wanted = {row["step"]: row[name] for row in logged if name in row}
        values = {event.step: event.value for event in found.Scalars(name)}
        assert values == pytest.approx(wanted, rel=1e-6)
        assert len(found.Scalars(name)) == len(wanted)
        for event in found.Scalars(name):
            assert event.wall_time == pytest.approx(1000.0 + 1.5 * event.step)


@pytest.mark.slow
def test_a_tensorboard_that_looks_on_drops_what_was_cut_off(run: Path) -> None:
    writer, reader = TensorBoard(run), LogReader(run)
    for row in rows(*range(9)):
        log.append(run, row)
    tell(writer, reader)
    looking = EventAccumulator(str(run / "tensorboard"))

    def shown() -> list[int]:
        looking.Reload()
        return (
            [event.step for event in looking.Scalars("loss")] if looking.Tags()["scalars"] else []
        )

    deadline = time.monotonic() + 30
    while shown() != list(range(1, 9)):  # the writer has a thread of its own
        assert time.monotonic() < deadline
        time.sleep(0.1)
    log.cut_back(run, 3)
    tell(writer, reader)
    writer.close()
    assert shown() == [1, 2, 3]


@pytest.mark.parametrize("open_again", [False, True])
def test_csv_has_a_column_for_all_that_is_logged(run: Path, open_again: bool) -> None:
    interrupted(run, open_again, CsvFile)
    wanted = pd.read_json(run / "log.jsonl", lines=True).drop(columns="blocks")
    pd.testing.assert_frame_equal(
        pd.read_csv(run / "log.csv")[list(wanted)], wanted, check_dtype=False
    )


def offline_history(run: Path) -> list[dict[int, dict[str, float]]]:
    """Each run that wandb has left, by step: the records of LevelDB's log format, 7 bytes in."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted((run / "wandb").glob("offline-run-*/*.wandb")):
        data, position, record = path.read_bytes(), 7, b""
        steps: dict[int, dict[str, float]] = {}
        while position + 7 <= len(data):
            if 32768 - position % 32768 < 7:
                position += 32768 - position % 32768
                continue
            _, length, kind = struct.unpack("<IHB", data[position : position + 7])
            if position + 7 + length > len(data):
                break  # it is still being written
            record += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):  # whole, or its last part
                parsed = Record.FromString(record)
                record = b""
                if parsed.HasField("history"):
                    items = {
                        item.key or item.nested_key[0]: json.loads(item.value_json)
                        for item in parsed.history.item
                    }
                    steps[parsed.history.step.num] = items
        found.append(steps)
    return found


KILLED = """
import os, sys
from pathlib import Path
from tests.training.logs.test_loggers import WeightsAndBiases, rows
watcher = WeightsAndBiases(Path(sys.argv[1]), {"seed": 0})
watcher.restart()
watcher.rows(rows(*range(9)))
os._exit(9)
"""


def test_weights_and_biases_offline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(root), *filter(None, sys.path)])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, run], env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert killed.returncode == 9
    watcher, reader = WeightsAndBiases(run, {"seed": 0}), LogReader(run)
    for row in rows(*range(5)):
        log.append(run, row)
    tell(watcher, reader)
    log.cut_back(run, 3)
    for row in rows(4, 5, 6):
        log.append(run, row)
    tell(watcher, reader)
    watcher.close()
    wanted = {row["step"]: loggers.numbers(row) for row in log.rows(run)}

    def last() -> dict[int, dict[str, float]]:
        return {
            step: {name: value for name, value in row.items() if not name.startswith("_")}
            for step, row in offline_history(run)[-1].items()
        }

    # wandb says that it has finished a moment before its own process has written the file.
    wait_until(lambda: last().keys() == wanted.keys(), 30, lambda: str(last()))
    assert last() == wanted


def test_what_is_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'evo-subnets\[wandb\]'"):
        check_loggers(["csv", "wandb"])
    check_loggers(["csv", "tensorboard"])
    check_loggers([])
    with pytest.raises(UserError, match="name each once"):
        check_loggers(["csv", "csv"])


def test_loggers_by_name(run: Path) -> None:
    opened = [type(one) for one in open_loggers(["csv", "tensorboard"], run, {})]
    assert opened == [Prometheus, CsvFile, TensorBoard]
