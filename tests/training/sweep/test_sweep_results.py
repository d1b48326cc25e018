from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
from rich.console import Console

from dashboards.sweep_picture import GREY, _by_value, _most_telling, draw_sweep
from tests.support.images import pixels
from training.logs import log
from training.sweep.sweep_results import ended, flags, read_results, table, write_results
from training.sweep.trial import LARGEST, comparable
from training.sweep.trials import Trial

SETTINGS = ["alpha", "init"]


def write_trial(directory: Path, number: int, alpha: float, init: str, perplexity: float) -> Trial:
    trial = Trial(f"{number:03}_x", {"alpha": alpha, "init": init})
    run = directory / trial.name
    run.mkdir(parents=True)
    for step, value in enumerate((1000.0, 3 * perplexity, perplexity)):
        row = {"step": step, "tokens": 100 * step, "flops": 10**9 * step, "seconds": 1.0 * step}
        log.append(run, row | {"loss": 2.0, "validation_perplexity": value})
    return trial


def sweep_of(directory: Path) -> list[Trial]:
    """Four finished trials, one stopped, one that failed, one that never began."""
    trials = [
        write_trial(directory, number, alpha, init, perplexity)
        for number, (alpha, init, perplexity) in enumerate(
            [(0.1, "weights", 20.0), (0.1, "random", 40.0), (0.2, "weights", 18.0),
             (0.2, "random", 36.0), (0.3, "weights", 90.0), (0.3, "random", 300.0)]
        )
    ]  # fmt: skip
    for trial in trials[:4]:
        (directory / trial.name / "summary.json").write_text("{}")
    (directory / trials[4].name / "stopped.json").write_text(json.dumps({"tokens": 200}))
    return [*trials, Trial("006_x", {"alpha": 0.4, "init": "random"})]


def test_results_are_ranked_and_say_what_became_of_each(tmp_path: Path) -> None:
    trials = sweep_of(tmp_path)
    results = read_results(tmp_path, trials, {"005_x": "no memory"})
    assert list(results["trial"]) == [f"00{n}_x" for n in (2, 0, 3, 1, 4, 5, 6)]
    assert list(results["status"]) == ["finished"] * 4 + ["stopped", "failed", "unfinished"]
    best = results.iloc[0]
    assert (best["alpha"], best["init"], best["final_perplexity"]) == (0.2, "weights", 18.0)
    assert (best["steps"], best["trained_tokens"], best["flops"]) == (2, 200, 2e9)
    assert best["curve_perplexity"] == [1000.0, 54.0, 18.0]
    assert results.iloc[5]["reason"] == "no memory"
    assert math.isnan(results.iloc[6]["final_perplexity"])
    assert [ended(tmp_path / trial.name) for trial in trials] == [True] * 5 + [False] * 2
    assert flags(trials[2]) == "--alpha 0.2 --init weights"
    write_results(results, tmp_path)
    again = pd.read_parquet(tmp_path / "results.parquet")
    assert list(again["final_perplexity"].iloc[:6]) == [18.0, 20.0, 36.0, 40.0, 90.0, 300.0]
    assert list(again["curve_flops"].iloc[0]) == [0, 1e9, 2e9]


def test_settings_of_any_kind_are_kept(tmp_path: Path) -> None:
    trials = [
        Trial("000_x", {"text": ["a.npy", "b.npy"], "batch_tokens": None}),
        Trial("001_x", {"text": "a.npy", "batch_tokens": 4096}),
    ]
    results = read_results(tmp_path, trials)
    write_results(results, tmp_path)
    again = pd.read_parquet(tmp_path / "results.parquet")
    assert list(again["text"]) == ['["a.npy", "b.npy"]', "a.npy"]
    assert list(results["batch_tokens"]) == [None, 4096]
    assert flags(trials[0]) == '--text ["a.npy", "b.npy"] --batch-tokens null'


def test_the_table_says_why_one_failed(tmp_path: Path) -> None:
    results = read_results(tmp_path, sweep_of(tmp_path), {"005_x": "no memory"})
    console = Console(width=140, record=True, color_system=None)
    console.print(table(results, SETTINGS, "out"))
    shown = console.export_text()
    assert "failed: no memory" in shown
    assert "finished:" not in shown
    assert "nan" not in shown
    assert shown.index("18.00") < shown.index("20.00") < shown.index("90.00")


def test_the_picture_groups_by_value(tmp_path: Path) -> None:
    results = read_results(tmp_path, sweep_of(tmp_path), {"005_x": "no memory"})
    finished = results[results["status"] == "finished"]
    medians = {label: group.median() for label, group in _by_value(finished, "alpha")}
    assert medians == {"0.1": 30.0, "0.2": 27.0}
    assert _most_telling(finished, SETTINGS) == "init"
    draw_sweep(results, SETTINGS, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    # Nothing that could be drawn: no picture, and no error.
    draw_sweep(results.iloc[6:], SETTINGS, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_a_picture_of_drawn_numbers(tmp_path: Path) -> None:
    trials = [
        write_trial(tmp_path, number, 10.0 ** (-number / 3), "weights", 20.0 + number)
        for number in range(9)
    ]
    for trial in trials:
        (tmp_path / trial.name / "summary.json").write_text("{}")
    draw_sweep(read_results(tmp_path, trials), SETTINGS, tmp_path / "sweep.png")
    assert pixels(tmp_path / "sweep.png", GREY) > 200  # the curve of the best run


def test_a_run_that_diverged_is_the_last_that_ended(tmp_path: Path) -> None:
    """Its perplexity is beyond float64, for which its log, which is JSON, has no word."""
    trials = sweep_of(tmp_path)
    log.append(tmp_path / "000_x", {"step": 3, "tokens": 300, "flops": 3 * 10**9, "loss": math.nan,
                                    "validation_perplexity": math.inf})  # fmt: skip
    line = (tmp_path / "000_x" / log.LOG).read_text().splitlines()[-1]
    assert line.endswith('"loss": null, "validation_perplexity": null}')
    log.cut_back(tmp_path / "000_x", 3)
    assert (tmp_path / "000_x" / log.LOG).read_text().splitlines()[-1] == line
    results = read_results(tmp_path, trials)
    assert list(results["trial"][:4]) == [f"00{n}_x" for n in (2, 3, 1, 0)]
    assert math.isnan(results.iloc[3]["final_perplexity"])
    last = log.rows(tmp_path / "000_x")[-1]["validation_perplexity"]
    assert (comparable(last), comparable(20.0)) == (LARGEST, 20.0)
    write_results(results, tmp_path)
    draw_sweep(results, SETTINGS, tmp_path / "sweep.png")
    Console(width=200).print(table(results, SETTINGS, "sweep"))
