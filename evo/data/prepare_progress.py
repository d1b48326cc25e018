"""How far `evo prepare` is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from evo.data.chunks import Piece
from evo.data.tokenise_chunk import Record

LINE_SECONDS = 15.0


class PrepareProgress:
    """Shows how far a corpus is; a context manager.

    Args:
        name: what it is called.
        pieces: all of them.
        finished: those that were finished before, by their numbers.
    """

    def __init__(self, name: str, pieces: Sequence[Piece], finished: Mapping[int, Record]) -> None:
        self._name, self._pieces = name, pieces
        sizes = [piece.size for piece in pieces if piece.size is not None]
        self._sizes = sizes if len(sizes) == len(pieces) else [1] * len(pieces)
        self._count = len(finished)
        self._left = sum(self._sizes) - sum(self._sizes[number] for number in finished)
        self._done = self._tokens = 0
        self._began = self._shown = time.monotonic()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._is_live = console.is_terminal
        self._task = self._bar.add_task(name, total=self._left, state="starting")

    def advance(self, number: int, record: Record) -> None:
        """Take note of a finished piece."""
        self._count += 1
        self._done += self._sizes[number]
        self._tokens += record.tokens
        now = time.monotonic()
        state = self._state(now - self._began)
        self._bar.update(self._task, completed=self._done, state=state)
        if not self._is_live and (now - self._shown > LINE_SECONDS or self._done == self._left):
            self._shown = now
            print(f"{self._name}: {state}", file=sys.stderr, flush=True)

    def _state(self, seconds: float) -> str:
        left = seconds / self._done * (self._left - self._done) if self._done else 0.0
        return (
            f"{self._count}/{len(self._pieces)} pieces, {self._tokens:,} tokens, "
            f"{self._tokens / seconds:,.0f} tokens/s, {_time(left)} left"
        )

    def __enter__(self) -> PrepareProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
