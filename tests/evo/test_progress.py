"""Progress in a log and on a terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from evo import progress
from evo.progress import WorkProgress, duration, seconds_left


def test_lines_are_further_apart_the_longer_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = WorkProgress("run", 10**6)
    printed = []
    for step in range(1, 7 * 24 * 3600 // 10):  # a week of steps of 10 seconds
        now += 10.0
        lines.update(step, f"step {step}")
        if shown := capsys.readouterr().err:
            assert shown == f"run: step {step}\n"
            printed.append(now)
    assert printed[0] <= 20
    assert 100 < len(printed) < 400
    assert printed[-1] - printed[-2] < 0.06 * now
    lines.close()
    assert capsys.readouterr().err == f"run: step {step}\n"
    lines.close()
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_terminal_has_a_bar_and_no_lines(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=80, record=True, color_system=None)
    with WorkProgress("corpus", 4, console) as bar:
        bar.update(2, "2/4 pieces")
    shown = console.export_text()
    assert "corpus " in shown
    assert "2/4 pieces" in shown
    assert "\u2501" in shown
    assert "corpus: 2/4" not in shown
    assert capsys.readouterr().err == ""


def test_the_time_left_is_at_the_pace_so_far() -> None:
    assert seconds_left(30.0, 3, 6) == pytest.approx(60.0)
    assert seconds_left(30.0, 0, 6) is None
    assert seconds_left(0.0, 3, 6) is None


def test_durations() -> None:
    assert duration(59.6) == "00:01:00"
    assert duration(2 * 86400 + 3 * 3600 + 4) == "2d 03:00:04"
    assert duration(None) == "?"
