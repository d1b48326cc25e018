"""The progress of a training run."""

from __future__ import annotations

import math

from rich.console import Console

from evo.progress import WorkProgress, duration, seconds_left
from training.logs.log_tail import Row

RATE_STEPS = 20
"""The number of steps over which tokens per second are averaged, as single ones vary."""


class ProgressState:
    """What is known of a run at its last logged step.

    `steps` and `flops` are those of the whole run.
    """

    def __init__(self, steps: int, flops: float) -> None:
        self._steps, self._flops = steps, flops
        self.restart()

    def restart(self) -> None:
        """Forget the rows: all of them come again."""
        self.last: Row = {"step": 0}
        self._first: Row | None = None
        self._perplexity: float | None = None
        self._rates: list[float] = []

    def rows(self, rows: list[Row]) -> None:
        """Take in rows of the log."""
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
        """The time left at the speed since this start, validations included; None if unknown."""
        step, seconds = self.last["step"], self.last.get("seconds", 0.0)
        if self._first is not None and self._first["step"] < step:
            step -= self._first["step"]
            seconds -= self._first.get("seconds", 0.0)
        return seconds_left(seconds, step, self._steps - self.last["step"])

    @property
    def text(self) -> str:
        """Step, loss, perplexity, speed, FLOPs and time left are shown as far as they are known."""
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
            rate = len(self._rates) / sum(1 / each for each in self._rates)
            parts.append(f"{rate:,.0f} tokens/s")
        if "skipped" in last:
            parts.append(f"{last['skipped']} steps without an update")
        parts.append(f"{last.get('flops', 0):.3g} of {self._flops:.3g} FLOPs")
        if (left := self.seconds_left) is not None and last["step"] < self._steps:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)


class ProgressDisplay:
    """Shows a run's progress on stderr; a watcher of its log.

    `steps` and `flops` are those of the whole run. The console may be a terminal or a log; by
    default it is stderr.
    """

    def __init__(self, name: str, steps: int, flops: float, console: Console | None = None) -> None:
        self._state = ProgressState(steps, flops)
        self._shown = WorkProgress(name, steps, console)

    def restart(self) -> None:
        """Forget the rows: all of them come again."""
        self._state.restart()

    def rows(self, rows: list[Row]) -> None:
        """Show the state after these rows."""
        self._state.rows(rows)
        self._shown.update(self._state.last["step"], self._state.text)

    def close(self) -> None:
        """Leave the last state standing."""
        self._shown.close()
