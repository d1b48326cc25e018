"""The quickstart from end to end, made short: every stage real, the numbers in the table right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from dashboards import axes, training_curves
from evo.commands.quickstart import settings
from evo.commands.quickstart.command import quickstart
from evo.commands.quickstart.settings import ARMS, QuickstartConfig
from evo.model import checkpoint
from tests.support.images import pixels

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "POPULATION": 3, "GENERATIONS": 1, "FITNESS_TOKENS": 512, "TOKENS": 8192,
        "VALIDATION_TOKENS": 512, "BATCH_TOKENS": 512,
    }.items():  # fmt: skip
        monkeypatch.setattr(settings, name, value)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quickstart_ends_with_its_table_its_pictures_and_four_models(
    short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    summary = quickstart(QuickstartConfig(out=out))
    printed = capsys.readouterr().out
    assert all(arm.label in printed for arm in ARMS.values())
    assert "evo report" in printed
    assert json.loads((out / "summary.json").read_text()) == summary
    assert pixels(out / "search.png", axes.COLOURS[0]) > 200
    for colour in training_curves.COLOURS[: len(ARMS)]:
        assert pixels(out / "training.png", colour) > 200
    small, large = summary["searches"]
    assert small["params"] < large["params"]
    for row in summary["arms"].values():
        model = checkpoint.load(Path(row["run"]) / "model").model()
        assert sum(parameter.numel() for parameter in model.parameters()) == row["parameters"]
        log = pd.read_json(Path(row["run"]) / "log.jsonl", lines=True)
        assert log.tokens.iloc[-1] == 8192
        assert row["flops"] == log.flops.iloc[-1]
        assert row["perplexity"] == log.validation_perplexity.iloc[-1]
    # The winner starts ahead of random weights, at about a uniform guess over the vocabulary.
    starts = {name: row["perplexity_at_start"] for name, row in summary["arms"].items()}
    assert starts["winner"] == starts["distilled"] < starts["random"]
    assert math.log(starts["random"]) == pytest.approx(math.log(2048), rel=0.05)
    assert_flops_are_counted(out, summary)
    # Run again, it finds everything done.
    assert quickstart(QuickstartConfig(out=out)) == summary


def assert_flops_are_counted(out: Path, summary: dict) -> None:
    """The search's and the losers' FLOPs, from the logs of all runs of the train-off."""
    winner = summary["arms"]["winner"]["run"]
    logs = {path.parent: path for path in out.glob("train-off/runs/*/log.jsonl")}
    assert Path(winner) in logs
    losers = [
        json.loads(path.read_text().splitlines()[-1])["flops"]
        for run, path in logs.items()
        if run != Path(winner)
    ]
    assert summary["train_off_flops"] == sum(losers) > 0
