from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from dashboards.training_curves import draw_groups
from evo.errors import UserError
from training.comparison.compare import GroupComparison, compare, table
from training.comparison.curves import Curve, against, flops_to_match, perplexity_at, read_curve
from training.logs import log

BASELINE = Curve("random", (0.0, 1e6, 4e6, 8e6), (1000.0, 100.0, 20.0, 10.0))


def write_run(
    directory: Path, points: list[tuple[float, float]], validation: str = "a", **settings: object
) -> Path:
    directory.mkdir(parents=True)
    settings |= {"validation_hash": validation, "validation_tokens": 100}
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


def printed_table(comparison: GroupComparison) -> str:
    console = Console(width=140, highlight=False)
    with console.capture() as capture:
        console.print(table(comparison.baseline, comparison.groups))
    return " ".join(capture.get().split())


def assert_drawn(comparison: GroupComparison, path: Path) -> None:
    draw_groups(comparison.groups, comparison.baseline, path)
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_compare_writes_table_picture_and_json(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "random", [(0, 1000), (1e6, 100), (4e6, 20), (8e6, 10)]),
        write_run(tmp_path / "winner", [(0, 400), (1e6, 40), (2e6, 10)]),
    ]
    comparison = compare(runs, out=tmp_path / "out")
    assert "4.00x" in printed_table(comparison)
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["target_perplexity"] == pytest.approx(10)
    assert [run["ratio"] for run in written["runs"]] == [1.0, 4.0]
    assert_drawn(comparison, tmp_path / "out" / "comparison.png")
    assert [row.alone.ratio for row in compare(runs, baseline=runs[1]).groups] == [0.25, 1.0]


def seeds(root: Path, name: str, ends: list[float], **settings: object) -> list[Path]:
    """Runs of one setting; each halves its perplexity with every 1e6 FLOPs, to so many FLOPs."""
    return [
        write_run(
            root / f"{name}-{seed}",
            [(n * 1e6, 64 * 2.0**-n * 2.0**offset) for n in range(7)],
            init=name,
            seed=seed,
            **settings,
        )
        for seed, offset in enumerate(ends)
    ]


def test_seeds_of_a_setting_are_one_row_with_an_interval(tmp_path: Path) -> None:
    """Perplexities 64 * 2^(offset - n): a run matches 2^offset's end n = 6 after 6 + offsets."""
    slow = seeds(tmp_path, "slow", [0.0, 1.0])
    fast = seeds(tmp_path, "fast", [-2.0, -3.0, -4.0])
    comparison = compare([*slow, *fast], out=tmp_path / "out")
    rows = comparison.groups
    assert [(row.name, len(row.runs)) for row in rows] == [("slow", 2), ("fast", 3)]
    # The slow runs end at 1 and 2; the fast ones are there after 6 - 2 - 0 = 4 million FLOPs, ...
    pairs = [6 / (6 + offset - end) for end in (0, 1) for offset in (-2, -3, -4)]
    expected = math.exp(sum(map(math.log, pairs)) / 6)
    assert rows[1].alone.ratio == pytest.approx(expected)
    assert rows[1].alone.interval.kind == "min-max"
    assert (rows[1].alone.interval.low, rows[1].alone.interval.high) == pytest.approx(
        (6 / 4, 6 / 1)
    )
    assert rows[0].alone.interval.kind is None
    assert rows[0].perplexity == pytest.approx(2**0.5)
    printed = printed_table(comparison)
    assert "1.50 – 6.00" in printed
    assert "the least and the largest of these pairs" in printed
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [run["n"] for run in written["runs"]] == [2, 3]
    assert written["runs"][1]["ratio_interval"] == pytest.approx([1.5, 6.0])
    assert written["runs"][1]["flops_to_match"] == pytest.approx(6e6 / expected)
    assert_drawn(comparison, tmp_path / "out" / "comparison.png")


def test_a_seed_that_never_matches_leaves_the_ratio_open(tmp_path: Path) -> None:
    one = seeds(tmp_path, "base", [0.0])
    other = seeds(tmp_path, "other", [-2.0, 0.5])
    comparison = compare([*one, *other], out=tmp_path / "out")
    _, row = comparison.groups
    assert row.alone.ratio is None
    assert row.alone.interval.low == 0
    assert row.alone.interval.high == pytest.approx(1.5)
    assert "not reached by 1 of 2 pairs" in printed_table(comparison)
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert written["runs"][1]["ratio_interval"] == [None, pytest.approx(1.5)]


def test_copies_and_other_settings_stand_apart(tmp_path: Path) -> None:
    runs = [
        *seeds(tmp_path / "a", "x", [0.0, 0.0]),
        *seeds(tmp_path / "b", "x", [0.0, 0.0], learning_rate=1e-3),
        *seeds(tmp_path / "c", "x", [0.0], batch=4),
        *seeds(tmp_path / "d", "x", [0.0], batch=4),  # the same seed and all: a copy
    ]
    rows = compare(runs).groups
    assert [len(row.runs) for row in rows] == [2, 2, 1, 1]
    assert len({row.name for row in rows}) == 4


def test_the_baseline_is_the_group_of_the_named_run(tmp_path: Path) -> None:
    slow, fast = seeds(tmp_path, "slow", [0.0, 0.0]), seeds(tmp_path, "fast", [-2.0, -2.0])
    rows = compare([*slow, *fast], baseline=fast[1]).groups
    assert rows[1].alone.ratio == 1
    assert rows[0].alone.ratio is None


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


def test_a_validation_that_is_not_finite_is_no_point_of_the_curve(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [(0.0, 100.0), (1e6, 50.0)])
    log.append(run, {"step": 3, "flops": 2e6, "loss": 9.0, "validation_perplexity": math.inf})
    assert log.rows(run)[-1]["step"] == 3
    assert "Infinity" not in (run / log.LOG).read_text()
    assert read_curve(run).perplexity == (100.0, 50.0)
