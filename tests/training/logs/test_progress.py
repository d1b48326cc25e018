from __future__ import annotations

import math

import pytest
from rich.console import Console

from training.logs.progress import ProgressDisplay, ProgressState


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


def test_a_run_that_never_began_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressDisplay("run", 10, 1e3).close()
    assert capsys.readouterr().err == ""


def test_a_log_has_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    display = ProgressDisplay("run", 100, 1e14)
    display.restart()
    display.rows([row(10)])
    assert capsys.readouterr().err == ""
    display.close()
    assert capsys.readouterr().err.startswith("run: step 10/100, loss 3.000, perplexity 20.09, ")


def test_the_bar_on_a_terminal_says_the_same() -> None:
    console = Console(force_terminal=True, width=160, record=True, color_system=None)
    bar = ProgressDisplay("run", 100, 1e14, console)
    bar.restart()
    bar.rows([row(10, tokens_per_second=300.0)])
    bar.close()
    shown = console.export_text()
    assert "run " in shown
    assert "step 10/100, loss 3.000, perplexity 20.09, 300 tokens/s" in shown
