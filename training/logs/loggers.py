"""Copies of a run's log for TensorBoard, Weights & Biases and CSV; functions of log.jsonl."""

from __future__ import annotations

import csv
import hashlib
import os
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from evo.errors import UserError, first_line
from evo.storage.files import atomic_file
from evo.storage.run_directory import FILE as SETTINGS
from training.logs.log_tail import Row, Watcher

LoggerName = Literal["tensorboard", "wandb", "csv"]

TENSORBOARD = "tensorboard"
FLUSH_SECONDS = 10
CSV = "log.csv"

WANDB_PROJECT = "evo"
"""The project of a run, unless `WANDB_PROJECT` names another."""


def check_loggers(names: Sequence[str]) -> None:
    """Refuse a logger whose package is not installed, before any work.

    Raises:
        UserError: a package is missing, or a logger is named twice.
    """
    if len(set(names)) < len(names):
        raise UserError(f"--loggers {' '.join(names)}: name each once")
    if "wandb" in names and find_spec("wandb") is None:
        raise UserError("--loggers wandb needs a package: pip install 'evo-subnets[wandb]'")


def open_loggers(names: Sequence[str], run: Path, settings: dict[str, Any]) -> list[Watcher]:
    """The loggers of a run, and what Prometheus sees of it.

    `check_loggers` has let the names pass. The run directory, where the loggers write, is absolute;
    the settings are the run's recorded ones, for a logger that shows them.

    Raises:
        UserError: Weights & Biases refuses, as without a key.
    """
    from training.logs.prometheus import Prometheus  # Ray is not for those who only check settings

    opened: list[Watcher] = [Prometheus(run)]
    for name in names:
        if name == "tensorboard":
            opened.append(TensorBoard(run))
        elif name == "csv":
            opened.append(CsvFile(run))
        else:
            opened.append(WeightsAndBiases(run, settings))
    return opened


def numbers(row: Row) -> dict[str, float]:
    """The columns of a row that can be drawn, without its step."""
    return {
        name: value
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class TensorBoard:
    """Event files in the run directory's `tensorboard/`.

    Written by tensorboardX, which Ray needs in any case: only looking at them needs TensorBoard.
    An event's wall time is that at which the run was first started, plus its seconds of training,
    so that files that are written again say the same.
    """

    def __init__(self, run: Path) -> None:
        from tensorboardX import SummaryWriter

        self._directory = run / TENSORBOARD
        self._writer: Any = None
        self._make = SummaryWriter
        self._started = (run / SETTINGS).stat().st_mtime

    def restart(self) -> None:
        """Begin a file that tells TensorBoard to drop what earlier files say.

        The last of those stays, as a TensorBoard that looks on may be in the middle of it.
        """
        self.close()
        for path in sorted(self._directory.glob("events.*"))[:-1]:
            path.unlink()
        self._writer = self._make(
            str(self._directory),
            purge_step=0,
            flush_secs=FLUSH_SECONDS,
            # Two starts within a second would otherwise share a name, and viewers miss the second.
            filename_suffix=f".{time.time_ns()}",
        )

    def rows(self, rows: list[Row]) -> None:
        """Write a scalar for each number."""
        for row in rows:
            wall_time = self._started + row.get("seconds", 0.0)
            for name, value in numbers(row).items():
                self._writer.add_scalar(name, value, row["step"], walltime=wall_time)
        self._writer.flush()

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class CsvFile:
    """`log.csv`: a column for everything that is logged, empty where a step has none."""

    def __init__(self, run: Path) -> None:
        self._path = run / CSV
        self._columns: list[str] = []

    def restart(self) -> None:
        """Begin the file anew."""
        self._columns = ["step"]
        self._rewrite([])

    def rows(self, rows: list[Row]) -> None:
        """Write a line for each row."""
        lines = [{"step": row["step"]} | numbers(row) for row in rows]
        new = [name for name in dict.fromkeys(n for line in lines for n in line)
               if name not in self._columns]  # fmt: skip
        if new:
            with self._path.open(newline="", encoding="utf-8") as file:
                before = list(csv.DictReader(file))
            self._columns += new
            self._rewrite(before)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerows(lines)

    def close(self) -> None:
        """Nothing is left to do."""

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        with atomic_file(self._path) as temporary:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(lines)


def _run_id(run: Path) -> str:
    """An id that is the same at every start of a run, and another for a run made in its place."""
    settings = run / SETTINGS
    identity = f"{run} {settings.stat().st_mtime_ns} ".encode() + settings.read_bytes()
    return hashlib.blake2b(identity, digest_size=8).hexdigest()


class WeightsAndBiases:
    """A run at Weights & Biases, or in the run directory's `wandb/` with `WANDB_MODE=offline`.

    A run that is started again goes on in the same one. Steps that are there already stay as they
    are: they are repeated only after a crash, with the same results. Offline nothing is there yet,
    so that each start leaves a whole run, of which the last is to be synced.

    Raises:
        UserError: Weights & Biases refuses, as without a key.
    """

    def __init__(self, run: Path, settings: dict[str, Any]) -> None:
        import wandb

        try:
            self._run = wandb.init(
                dir=str(run),
                project=os.environ.get("WANDB_PROJECT", WANDB_PROJECT),
                name=run.name,
                id=_run_id(run),
                resume="allow",
                config=settings,
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise UserError(
                f"--loggers wandb: {first_line(error)}; `wandb login`, or set WANDB_MODE=offline"
            ) from error
        self._next_step = self._run.step

    def restart(self) -> None:
        """Keep the rows that are there."""

    def rows(self, rows: list[Row]) -> None:
        """Log all numbers of the steps that are not there yet."""
        for row in rows:
            if row["step"] >= self._next_step:
                self._run.log(numbers(row), step=row["step"])
                self._next_step = row["step"] + 1

    def close(self) -> None:
        """Wait until every row is sent."""
        self._run.finish()
