"""More of a search run that is there, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evo.commands.search.claim import claim
from evo.commands.search.config import SearchConfig
from evo.commands.search.inputs import read_inputs
from evo.errors import UserError
from tests.support import finished

Teacher = Callable[[str], Path]

FEW: dict[str, Any] = {"generations": 1, "spaces": ["coarse-uniform"]}
MORE = [
    ({"generations": 1}, {"generations": 2}),
    ({"generations": 9, "patience": 1}, {"generations": 9, "patience": 2}),
    (FEW, FEW | {"bins": ["60%", "40%"]}),
    (FEW, FEW | {"spaces": ["fine-layerwise", "coarse-uniform"]}),
    ({"generations": 1}, {"generations": 2, "bins": ["40%", "60%"]}),
]


def assert_same(one: SearchConfig, other: SearchConfig) -> None:
    """Histories, winners and summaries but for times and directories."""
    names = sorted(path.name for path in (other.out / "searches").iterdir())
    assert names == sorted(path.name for path in (one.out / "searches").iterdir())
    for name in names:
        found = [run.out / "searches" / name for run in (one, other)]
        frames = [pd.read_parquet(p / "history.parquet").drop(columns="seconds") for p in found]
        pd.testing.assert_frame_equal(*frames, check_exact=True)
        winners = [json.loads((p / "winner" / "subnet.json").read_text()) for p in found]
        assert winners[0] == winners[1]
    summaries = [json.loads((run.out / "summary.json").read_text()) for run in (one, other)]
    for summary in summaries:
        for row in summary["searches"]:
            del row["seconds"], row["winner"], row["cached_units"]
    assert summaries[0]["searches"] == summaries[1]["searches"]


@pytest.mark.parametrize(
    ("few", "more"),
    [pytest.param(*each, marks=[] if each in MORE[-2:] else [pytest.mark.slow]) for each in MORE],
    ids=lambda changes: " ".join(changes),
)
def test_more_of_a_run_is_the_same_as_if_asked_for_at_once(
    few: dict[str, Any], more: dict[str, Any], tmp_path: Path, teacher: Teacher
) -> None:
    for name in ("longer", "at-once"):
        (tmp_path / name).mkdir()
    begun = finished.searched(tmp_path / "longer", teacher("llama-tied"), **few)
    winners = begun.out / "searches" / "coarse-uniform@40%" / "winner"
    before = winners.stat().st_ino
    longer = finished.searched(tmp_path / "longer", teacher("llama-tied"), **more)
    if (few.get("generations"), few.get("patience")) == (more["generations"], more.get("patience")):
        assert winners.stat().st_ino == before  # what has ended is left alone
    assert_same(longer, finished.searched(tmp_path / "at-once", teacher("llama-tied"), **more))


@pytest.mark.parametrize(
    ("limits", "ended"),
    [
        ({"max_tokens_scored": 1}, "max-tokens-scored"),
        ({"target_perplexity": 1e6}, "target-perplexity"),
        ({"max_hours": 1e-9}, "max-hours"),
    ],
)
def test_a_search_that_a_limit_has_ended_goes_on_without_it(
    limits: dict[str, Any], ended: str, tmp_path: Path, teacher: Teacher
) -> None:
    for name in ("longer", "at-once"):
        (tmp_path / name).mkdir()
    few = {"spaces": ["coarse-uniform"], "generations": 2, "score_cache": False}
    begun = finished.searched(tmp_path / "longer", teacher("llama-tied"), **few, **limits)
    summary = json.loads((begun.out / "summary.json").read_text())
    assert [row["ended"] for row in summary["searches"]] == [ended]
    assert [row["generations"] for row in summary["searches"]] == [1]
    assert (begun.out / "searches" / "coarse-uniform@40%" / "winner").is_dir()
    longer = finished.searched(tmp_path / "longer", teacher("llama-tied"), **few)
    assert_same(longer, finished.searched(tmp_path / "at-once", teacher("llama-tied"), **few))


def test_patience_ends_the_shorter_of_them(tmp_path: Path, teacher: Teacher) -> None:
    config = finished.searched(tmp_path, teacher("llama-tied"), **MORE[1][0])
    summary = json.loads((config.out / "summary.json").read_text())
    assert {row["ended"] for row in summary["searches"]} == {"patience"}


def test_more_patience_is_claimed_however_long_a_search_has_gone_on(
    tmp_path: Path, teacher: Teacher
) -> None:
    """It counts from the last improvement."""
    config = finished.searched(tmp_path, teacher("llama-tied"), generations=50, patience=1)
    for path in config.out.glob("searches/*/state.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"generation": 41}))
    claim(read_inputs(replace(config, patience=3)))
    with pytest.raises(UserError, match="--patience was 3, now it is 2, and coarse-uniform"):
        claim(read_inputs(replace(config, patience=2)))


def test_a_reopened_run_is_unfinished_and_less_of_it_is_refused(
    tmp_path: Path, teacher: Teacher
) -> None:
    config = finished.searched(tmp_path, teacher("llama-tied"), generations=1)
    other = np.random.default_rng(1).integers(0, 112, 16 * finished.LENGTH)
    np.save(tmp_path / "other.npy", other)
    for changes, message in (
        ({"generations": 0}, "--generations was 1, now it is 0, and coarse-uniform"),
        ({"spaces": ["coarse-uniform"]}, "spaces are added to a run, never taken out"),
        ({"bins": ["60%"]}, "--bins was 40%, now it is 60%: bins are added to a run, never"),
        ({"seed": 4}, "--seed was 3, now it is 4; give what it was begun with"),
        ({"gate_text": str(tmp_path / "other.npy")}, "--gate-text was not given, now it is "),
    ):
        with pytest.raises(UserError, match=message):
            claim(read_inputs(replace(config, **changes)))
    assert (config.out / "summary.json").is_file()

    train_off = config.out / "select" / "40%"
    train_off.mkdir(parents=True)
    with pytest.raises(UserError, match=r"select/40% is a train-off of the candidates that were"):
        claim(read_inputs(replace(config, generations=3)))
    claim(read_inputs(replace(config, bins=["40%", "60%"])))
    assert not (config.out / "summary.json").exists()
    assert len(list(config.out.glob("searches/*/winner"))) == 2
    train_off.rmdir()
    claim(read_inputs(replace(config, bins=["40%", "60%"], generations=3)))
    assert not list(config.out.glob("searches/*/winner"))
