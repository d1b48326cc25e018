from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from evo.errors import UserError
from training.compare import Curve, against, compare, flops_to_match, perplexity_at, read_curve

BASELINE = Curve("random", (0.0, 1e6, 4e6, 8e6), (1000.0, 100.0, 20.0, 10.0))


def write_run(directory: Path, points: list[tuple[float, float]], validation: str = "a") -> Path:
    directory.mkdir()
    settings = {"validation_hash": validation, "validation_tokens": 100}
    (directory / "settings.yaml").write_text(yaml.safe_dump(settings))
    rows = [{"step": n, "flops": f, "loss": 1.0} for n, (f, _) in enumerate(points)]
    for row, (_, perplexity) in zip(rows, points, strict=True):
        row["validation_perplexity"] = perplexity
    rows.insert(1, {"step": 0, "flops": 1.0, "loss": 2.0})
    (directory / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_interpolates_the_logarithm_between_validations() -> None:
    curve = Curve("winner", (0.0, 1e6, 2e6), (400.0, 40.0, 10.0))
    assert flops_to_match(curve, 20.0).flops == pytest.approx(1.5e6)  # half way from 40 to 10
    assert flops_to_match(curve, 40.0).flops == 1e6
    assert flops_to_match(curve, 126.49110640673517).flops == pytest.approx(0.5e6)
    assert not flops_to_match(curve, 20.0).is_bound


def test_a_run_that_is_there_from_the_start_gives_a_bound() -> None:
    row = against(BASELINE, Curve("winner", (0.0, 1e6, 2e6), (9.0, 8.0, 7.0)))
    assert row.match.is_bound
    assert row.ratio == 8.0
    assert row.ratio_text == "≥ 8.00x"


def test_a_run_that_never_gets_there() -> None:
    row = against(BASELINE, Curve("worse", (0.0, 1e6, 2e6), (90.0, 80.0, 70.0)))
    assert row.ratio is None
    assert row.ratio_text == "not reached"


def test_the_baseline_matches_itself_at_its_end() -> None:
    assert against(BASELINE, BASELINE).ratio == 1.0


def test_other_flops_are_counted() -> None:
    curve = Curve("winner", (0.0, 1e6, 2e6), (400.0, 40.0, 10.0))
    assert against(BASELINE, curve).ratio == 4.0
    assert against(BASELINE, curve, other_flops=2e6).ratio == 2.0


def test_perplexity_at_equal_flops() -> None:
    assert perplexity_at(BASELINE, 6e6) == pytest.approx(math.sqrt(20 * 10))
    assert perplexity_at(BASELINE, 8e6) == pytest.approx(10.0)
    assert perplexity_at(BASELINE, 9e6) is None


def test_compare_writes_table_picture_and_json(tmp_path: Path, capsys) -> None:
    runs = [
        write_run(tmp_path / "random", [(0, 1000), (1e6, 100), (4e6, 20), (8e6, 10)]),
        write_run(tmp_path / "winner", [(0, 400), (1e6, 40), (2e6, 10)]),
    ]
    compare(runs, out=tmp_path / "out")
    assert "4.00x" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["target_perplexity"] == 10
    assert [run["ratio"] for run in written["runs"]] == [1.0, 4.0]
    assert (tmp_path / "out" / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert [row.ratio for row in compare(runs, baseline=runs[1])] == [0.25, 1.0]


def test_refusals(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", [(0, 400), (1e6, 40)])
    other = write_run(tmp_path / "other", [(0, 400), (1e6, 40)], validation="b")
    short = write_run(tmp_path / "short", [(0, 400)])
    with pytest.raises(UserError, match="different text"):
        compare([one, other])
    with pytest.raises(UserError, match="1 validations"):
        read_curve(short)
    with pytest.raises(UserError, match="no pretraining run"):
        compare([tmp_path / "nothing"])
    with pytest.raises(UserError, match="at least one"):
        compare([])
