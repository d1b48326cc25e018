from __future__ import annotations

import math

import pytest
from rich.console import Console

from training.logs import progress
from training.logs.progress import ProgressBar, ProgressLines, ProgressState, duration


def row(step: int, **more: float) -> dict[str, float]:
    return {"step": step, "flops": 1e12 * step, "seconds": 2.0 * step, "loss": 3.0} | more


def test_what_is_said_of_a_run_with_validation() -> None:
    state = ProgressState(100, 1e14)
    state.rows([{"step": 0, "flops": 0, "seconds": 0.0, "validation_perplexity": 90.0}])
    assert state.text == "step 0/100, validation perplexity 90.00, 0 of 1e+14 FLOPs"
    state.rows([row(9, tokens_per_second=100.0), row(10, tokens_per_second=300.0)])
    assert state.text == (
        "step 10/100, loss 3.000, validation perplexity 90.00, 150 tokens/s, "
        "1e+13 of 1e+14 FLOPs, 00:03:00 left"
    )
    state.rows([row(100, validation_perplexity=20.5)])
    assert "validation perplexity 20.50" in state.text
    assert "left" not in state.text


def test_without_validation_the_perplexity_is_the_training_texts() -> None:
    state = ProgressState(100, 1e14)
    state.rows([row(1)])
    assert f"perplexity {math.exp(3):.2f}" in state.text
    state.rows([row(2, ce=1.0)])  # where the loss has other parts
    assert f"perplexity {math.exp(1):.2f}" in state.text
    state.rows([row(3, loss=1e9)])
    assert "perplexity 1014" in state.text  # of e^700, not an overflow


def test_the_time_left_is_at_the_speed_since_this_start() -> None:
    state = ProgressState(100, 1e14)
    state.rows([row(step) for step in range(1, 51)])  # an earlier start's: 2 seconds a step
    assert state.seconds_left == pytest.approx(50 * 2.0)
    state.rows([row(60, seconds=150.0)])  # now 5 seconds a step
    assert state.seconds_left == pytest.approx(40 * 5.0)
    state.restart()  # the log is cut back: a worker has died
    state.rows([row(step) for step in range(1, 41)])
    assert state.seconds_left == pytest.approx(60 * 2.0)


def test_lines_are_further_apart_the_longer_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    lines = ProgressLines("run", ProgressState(10**6, 1e18))
    lines.restart()
    printed = []
    for step in range(1, 7 * 24 * 3600 // 10):  # a week of steps of 10 seconds
        now += 10.0
        lines.rows([row(step)])
        if capsys.readouterr().err:
            printed.append(now)
    assert printed[0] <= 20
    assert 100 < len(printed) < 400
    assert printed[-1] - printed[-2] < 0.06 * now
    lines.close()
    assert capsys.readouterr().err.startswith(f"run: step {step}/1000000, loss 3.000, ")
    lines.close()
    captured = capsys.readouterr()
    assert captured.err == captured.out == ""


def test_a_run_that_never_began_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressLines("run", ProgressState(10, 1e3)).close()
    assert capsys.readouterr().err == ""


def test_the_bar_on_a_terminal_says_the_same() -> None:
    console = Console(force_terminal=True, width=160, record=True, color_system=None)
    bar = ProgressBar("run", 100, ProgressState(100, 1e14), console)
    bar.restart()
    bar.rows([row(10, tokens_per_second=300.0)])
    bar.close()
    shown = console.export_text()
    assert "run " in shown
    assert "step 10/100, loss 3.000, perplexity 20.09, 300 tokens/s" in shown


def test_durations() -> None:
    assert duration(59.6) == "00:01:00"
    assert duration(2 * 86400 + 3 * 3600 + 4) == "2d 03:00:04"
