"""More of a search run that is there, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from evo.commands.search.claim import claim
from evo.commands.search.inputs import read_inputs
from evo.errors import UserError
from tests.support import finished


def test_more_generations_are_the_same_as_if_asked_for_at_once(
    tmp_path: Path, teacher: Callable[[str], Path]
) -> None:
    for name in ("longer", "at-once"):
        (tmp_path / name).mkdir()
    finished.searched(tmp_path / "longer", teacher("llama-tied"), generations=1)
    longer = finished.searched(tmp_path / "longer", teacher("llama-tied"), generations=2)
    at_once = finished.searched(tmp_path / "at-once", teacher("llama-tied"), generations=2)
    names = sorted(path.name for path in (at_once.out / "searches").iterdir())
    for name in names:
        one, other = (run.out / "searches" / name for run in (longer, at_once))
        frames = [
            pd.read_parquet(p / "history.parquet").drop(columns="seconds") for p in (one, other)
        ]
        pd.testing.assert_frame_equal(*frames, check_exact=True)
        found = [json.loads((p / "winner" / "subnet.json").read_text()) for p in (one, other)]
        assert found[0] == found[1]
    rows = [json.loads((r.out / "summary.json").read_text())["searches"] for r in (longer, at_once)]
    for row in (*rows[0], *rows[1]):
        del row["seconds"], row["winner"], row["cached_units"]
    assert rows[0] == rows[1]


def test_a_reopened_run_is_unfinished_and_fewer_generations_are_refused(
    tmp_path: Path, teacher: Callable[[str], Path]
) -> None:
    config = finished.searched(tmp_path, teacher("llama-tied"), generations=1)
    with pytest.raises(UserError, match="--generations was 1, now it is 0, and coarse-uniform"):
        claim(read_inputs(replace(config, generations=0)))
    assert (config.out / "summary.json").is_file()
    claim(read_inputs(replace(config, generations=3)))
    assert not (config.out / "summary.json").exists()
    assert not list(config.out.glob("searches/*/winner"))
