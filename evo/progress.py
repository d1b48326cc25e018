"""How far long work is: a bar on a terminal, a plain line now and then where there is none."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_SECONDS = 15.0
"""The least time between two lines."""

LINE_SHARE = 0.05
"""The least time between two lines as a share of the time so far: those of a long run are further
apart, hundreds in a week."""


class WorkProgress:
    """A line of progress on stderr; a context manager, or closed by `close`."""

    def __init__(self, name: str, total: float, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
        )
        self._name, self._total, self._is_live = name, total, console.is_terminal
        self._bar = Progress(*columns, console=console, expand=True, disable=not self._is_live)
        self._task = self._bar.add_task(name, total=total, state="starting")
        self._began = self._printed = time.monotonic()
        self._state = self._shown = ""
        self._bar.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:  # the error is what counts
            self._shown = self._state
        self.close()

    @property
    def seconds(self) -> float:
        """The time since the work began."""
        return time.monotonic() - self._began

    def update(self, done: float, state: str) -> None:
        """Show the amount of work that is done, and a text beside it.

        A line is printed only if the last one is old enough.
        """
        self._state = state
        self._bar.update(self._task, completed=done, state=state)
        if time.monotonic() - self._printed >= max(LINE_SECONDS, LINE_SHARE * self.seconds):
            self._print()

    def close(self) -> None:
        """Leave the last state standing."""
        self._bar.stop()
        if self._state != self._shown:
            self._print()

    def _print(self) -> None:
        self._printed, self._shown = time.monotonic(), self._state
        if not self._is_live:
            print(f"{self._name}: {self._state}", file=sys.stderr, flush=True)


def seconds_left(seconds: float, done: float, rest: float) -> float | None:
    """Estimate the time that the rest takes at the pace so far; None where none is known.

    `seconds` were spent on `done`; `rest` is in the same unit.
    """
    return seconds / done * rest if done and seconds else None


def duration(seconds: float | None) -> str:
    """Format a time as `2d 03:04:05`, without the days where there are none; None is `?`."""
    if seconds is None:
        return "?"
    days, rest = divmod(round(seconds), 24 * 3600)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock
