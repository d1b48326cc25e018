"""How far a run is: a bar on a terminal, a line now and then where there is none."""

from __future__ import annotations

import math
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from training.logs.log_tail import Row

LINE_SECONDS = 15.0
"""The least time between two lines."""

LINE_SHARE = 0.05
"""As a share of the time so far: a long run's lines are further apart, hundreds in a week."""

RATE_STEPS = 20
"""Tokens per second are those of so many steps, as single ones vary."""


class ProgressState:
    """What there is to say of a run at its last logged step.

    Args:
        steps: of the whole run.
        flops: of the whole run.
    """

    def __init__(self, steps: int, flops: float) -> None:
        self._steps, self._flops = steps, flops
        self.restart()

    def restart(self) -> None:
        """All is told anew."""
        self.last: Row = {"step": 0}
        self._first: Row | None = None
        self._perplexity: float | None = None
        self._rates: list[float] = []

    def rows(self, rows: list[Row]) -> None:
        """Take in what was logged."""
        self.last = rows[-1]
        for row in rows:
            if (perplexity := row.get("validation_perplexity")) is not None:
                self._perplexity = float(perplexity)
            if rate := row.get("tokens_per_second"):
                self._rates.append(rate)
        del self._rates[:-RATE_STEPS]
        if self._first is None:  # all that was logged before this start, whose speed may differ
            self._first = self.last

    @property
    def seconds_left(self) -> float | None:
        """At the speed since this start, validations included; None while it is not known."""
        step, seconds = self.last["step"], self.last.get("seconds", 0.0)
        if self._first is not None and self._first["step"] < step:
            step -= self._first["step"]
            seconds -= self._first.get("seconds", 0.0)
        return seconds / step * (self._steps - self.last["step"]) if step and seconds else None

    @property
    def text(self) -> str:
        """Step, loss, perplexity, speed, FLOPs and time left, as far as they are known."""
        last = self.last
        parts = [f"step {last['step']}/{self._steps}"]
        if "loss" in last:
            parts.append(f"loss {last['loss']:.3f}")
        if self._perplexity is not None:
            parts.append(f"validation perplexity {self._perplexity:.2f}")
        elif "loss" in last:
            cross_entropy = last["ce"] if "ce" in last else last["loss"]
            parts.append(f"perplexity {math.exp(min(cross_entropy, 700.0)):.2f}")
        if self._rates:
            rate = len(self._rates) / sum(1 / one for one in self._rates)
            parts.append(f"{rate:,.0f} tokens/s")
        if "skipped" in last:
            parts.append(f"{last['skipped']} steps without an update")
        parts.append(f"{last.get('flops', 0):.3g} of {self._flops:.3g} FLOPs")
        if (left := self.seconds_left) is not None and last["step"] < self._steps:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """`2d 03:04:05`, without the days where there are none."""
    days, rest = divmod(round(seconds), 24 * 3600)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}d {clock}" if days else clock


class ProgressBar:
    """Redraws one line on a terminal.

    Args:
        name: of the run.
        steps: of the whole run.
        state: what it shows.
        console: the terminal.
    """

    def __init__(self, name: str, steps: int, state: ProgressState, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}"),
        )
        self._state = state
        self._bar = Progress(*columns, console=console, expand=True)
        self._task = self._bar.add_task(name, total=steps, state="starting")
        self._bar.start()

    def restart(self) -> None:
        """Go back."""
        self._state.restart()

    def rows(self, rows: list[Row]) -> None:
        """Go on."""
        self._state.rows(rows)
        step = self._state.last["step"]
        self._bar.update(self._task, completed=step, state=self._state.text)

    def close(self) -> None:
        """Leave the last line standing."""
        self._bar.stop()


class ProgressLines:
    """Prints a line to stderr now and then, and one at the end.

    Args:
        name: of the run.
        state: what they say.
    """

    def __init__(self, name: str, state: ProgressState) -> None:
        self._name, self._state = name, state
        self._began = self._printed = time.monotonic()
        self._shown = 0

    def restart(self) -> None:
        """Go back."""
        self._state.restart()

    def rows(self, rows: list[Row]) -> None:
        """Say how far it is, if it is time."""
        self._state.rows(rows)
        now = time.monotonic()
        if now - self._printed >= max(LINE_SECONDS, LINE_SHARE * (now - self._began)):
            self._printed = now
            self._print()

    def close(self) -> None:
        """Say where it ended."""
        if self._state.last["step"] != self._shown:
            self._print()

    def _print(self) -> None:
        self._shown = self._state.last["step"]
        print(f"{self._name}: {self._state.text}", file=sys.stderr, flush=True)


def progress_display(name: str, steps: int, flops: float) -> ProgressBar | ProgressLines:
    """What shows a run's progress on stderr.

    Args:
        name: of the run.
        steps: of the whole run.
        flops: of the whole run.
    """
    console, state = Console(stderr=True), ProgressState(steps, flops)
    if console.is_terminal:
        return ProgressBar(name, steps, state, console)
    return ProgressLines(name, state)
