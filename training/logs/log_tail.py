"""Follow a run's log while it is written.

The log is the one record of a run, and the training loop does not know who reads it: every display
and every copy of the log is a function of it. When a run goes on from a checkpoint, its log is cut
back and so replaced by a new file, of which every row is passed on again.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from evo.errors import UserError
from training.logs.log import LOG, parse

REFRESH_SECONDS = 1.0

logger = logging.getLogger("evo.training")

Row = dict[str, Any]


class Watcher(Protocol):
    """Is given the rows of a run's log, all of them from one thread."""

    def restart(self) -> None:
        """The log begins anew: earlier rows no longer hold; those that still do follow."""

    def rows(self, rows: list[Row]) -> None:
        """Take the rows that were logged since the last call, in order; never none."""

    def close(self) -> None:
        """No more rows follow."""


class LogReader:
    """Reads the new rows of a run's log.

    The run directory may get its log later.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / LOG
        # Held open, so that the file system cannot give its inode to the one that replaces it.
        self._file: BinaryIO | None = None
        self._number = 0

    def read(self) -> tuple[bool, list[Row]]:
        """Whether the log has begun anew since the last call, and the whole lines that are new.

        Raises:
            UserError: a line is no JSON object with a step.
        """
        is_anew = self._open_if_replaced()
        rows: list[Row] = []
        if self._file is None:
            return is_anew, rows
        while True:
            start = self._file.tell()
            line = self._file.readline()
            if not line.endswith(b"\n"):
                self._file.seek(start)  # the rest of it is not written yet
                return is_anew, rows
            self._number += 1
            rows.append(parse(line, self._path, self._number))

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _open_if_replaced(self) -> bool:
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        if self._file is not None and os.path.samestat(os.fstat(self._file.fileno()), now):
            return False
        self.close()
        self._file, self._number = self._path.open("rb"), 0
        return True


@contextmanager
def log_tail(run: Path, watchers: Sequence[Watcher]) -> Iterator[None]:
    """Pass a run's log on to watchers, in a thread; at the end every row has been passed on.

    A watcher that fails is left out from then on, with a warning: a full disk at a copy of the log,
    or an error of a logger's library, must neither end the run nor stop the other watchers.
    Watchers are closed at the end.
    """
    finished = threading.Event()
    thread = threading.Thread(target=_pass_on, args=(run, watchers, finished), daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


def _pass_on(run: Path, watchers: Sequence[Watcher], finished: threading.Event) -> None:
    reader = LogReader(run)
    watching = list(watchers)
    is_last = False
    while not is_last:
        is_last = finished.wait(REFRESH_SECONDS)
        try:
            is_anew, rows = reader.read()
        except UserError as error:  # so will the workers, when they cut the log back
            logger.warning("%s", error)
            is_anew, rows, is_last = False, [], True
        except OSError as error:  # of a file system that is away for a moment
            logger.warning("%s cannot be read just now: %s", run / LOG, error)
            is_anew, rows = False, []
        for watcher in list(watching):
            try:
                if is_anew:
                    watcher.restart()
                if rows:
                    watcher.rows(rows)
                if is_last:
                    watcher.close()
            except Exception as error:
                watching.remove(watcher)
                logger.warning("%s: %s; the run goes on without it", type(watcher).__name__, error)
    reader.close()
