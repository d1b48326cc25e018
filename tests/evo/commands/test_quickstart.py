"""The quickstart from end to end, made short: every stage real, the numbers in the table right."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from dashboards import axes, training_curves
from evo.commands import quickstart
from evo.commands.quickstart import LABELS, QuickstartConfig
from evo.model import checkpoint
from tests.support.images import pixels

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "POPULATION": 3, "GENERATIONS": 1, "FITNESS_TOKENS": 512, "TOKENS": 4096,
        "VALIDATION_TOKENS": 1024, "BATCH_TOKENS": 1024,
    }.items():  # fmt: skip
        monkeypatch.setattr(quickstart, name, value)


@pytest.mark.slow
def test_quickstart_ends_with_its_table_its_pictures_and_three_models(
    short: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = quickstart.quickstart(QuickstartConfig(out=tmp_path / "out"))
    out = capsys.readouterr().out
    assert all(label in out for label in LABELS.values())
    assert "evo report" in out
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert pixels(tmp_path / "out" / "search.png", axes.COLOURS[0]) > 200
    for colour in training_curves.COLOURS[: len(LABELS)]:
        assert pixels(tmp_path / "out" / "training.png", colour) > 200
    small, large = summary["searches"]
    assert small["params"] < large["params"]
    assert summary["parameters"] == small["params"]
    for arm in LABELS:
        model = checkpoint.load(tmp_path / "out" / arm / "model").model()
        assert sum(parameter.numel() for parameter in model.parameters()) == small["params"]
        log = pd.read_json(tmp_path / "out" / arm / "log.jsonl", lines=True)
        assert log.tokens.iloc[-1] == 4096
        assert summary["arms"][arm]["flops"] == log.flops.iloc[-1]
        assert summary["arms"][arm]["perplexity"] == log.validation_perplexity.iloc[-1]
    # The winner starts ahead of random weights, at about a uniform guess over the vocabulary.
    starts = {arm: summary["arms"][arm]["perplexity_at_start"] for arm in LABELS}
    assert starts["winner"] == starts["distilled"] < starts["random"]
    assert math.log(starts["random"]) == pytest.approx(math.log(2048), rel=0.05)
    # Run again, it finds everything done.
    assert quickstart.quickstart(QuickstartConfig(out=tmp_path / "out")) == summary
