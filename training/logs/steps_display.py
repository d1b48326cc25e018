"""The progress of runs that train side by side: the steps of all of them together, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from evo.progress import WorkProgress, duration, seconds_left
from training.logs.log_tail import LogReader, Row


class StepsDisplay:
    """Shows how many steps runs have had, on stderr; a context manager, and a watcher of a log.

    Args:
        name: what the line begins with.
        total: steps that all runs together are to have.
        runs: their run directories, which may get their logs later.
    """

    def __init__(self, name: str, total: int, runs: Sequence[Path]) -> None:
        self._total = total
        self._readers = [LogReader(run) for run in runs]
        self._steps = [0] * len(runs)
        self._first: int | None = None
        self._shown = WorkProgress(name, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for reader in self._readers:
            reader.close()
        self._shown.__exit__(kind)

    def restart(self) -> None:
        """Nothing: `look` reads the logs itself."""

    def rows(self, rows: list[Row]) -> None:
        """Show the sum anew."""
        self.look()

    def close(self) -> None:
        """Nothing: other runs go on."""

    def look(self) -> None:
        """Read the logs and show the sum.

        Raises:
            UserError: a log is damaged.
        """
        for number, reader in enumerate(self._readers):
            _, rows = reader.read()
            if rows:
                self._steps[number] = rows[-1]["step"]
        done = sum(self._steps)
        if self._first is None:  # what was done before this start took no time of it
            self._first = done
        left = seconds_left(self._shown.seconds, done - self._first, self._total - done)
        self._shown.update(done, f"{done:,} of {self._total:,} steps, {duration(left)} left")
