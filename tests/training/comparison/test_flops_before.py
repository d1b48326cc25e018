"""What was spent for a run before its first step, from the files of searches and train-offs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import yaml

from evo.errors import UserError
from tests.training.comparison.test_compare import printed_table, write_run
from training.comparison.compare import compare
from training.comparison.flops_before import FlopsBefore, flops_before

POINTS = [(0.0, 64.0), (1e6, 32.0), (2e6, 16.0)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A search in two bins with two spaces, and a train-off in one of them."""
    run = tmp_path / "run"
    searches = [("a", "25%", 1e5), ("b", "25%", 2e5), ("a", "50%", 4e5)]
    write(run, {
        "order_flops": 1e4,
        "searches": [{"space": s, "bin": b, "flops": flops} for s, b, flops in searches],
    })  # fmt: skip
    write(
        run / "select" / "25%",
        {
            "run": str(run),
            "bin": "25%",
            "flops": 9e5,
            "winner_flops": 3e5,
            "winner": {"candidate": "abc"},
        },
    )
    return run


def write(directory: Path, summary: dict) -> None:
    directory.mkdir(parents=True)
    (directory / "summary.json").write_text(json.dumps(summary))


def pretrained(directory: Path, model: Path, **settings: object) -> Path:
    return write_run(directory, POINTS, model=str(model), **settings)


def test_a_searchs_winner(run: Path, tmp_path: Path) -> None:
    winner = run / "searches" / "a@50%" / "winner"
    assert flops_before(pretrained(tmp_path / "x", winner)) == FlopsBefore(search=4.1e5)
    assert flops_before(pretrained(tmp_path / "y", winner, init="random")) == FlopsBefore()


def test_a_train_offs_winner_goes_on_or_begins_anew(run: Path, tmp_path: Path) -> None:
    finalist = run / "select" / "25%" / "finalists" / "abc"
    goes_on = pretrained(run / "select" / "25%" / "runs" / "abc", finalist)
    assert flops_before(goes_on) == FlopsBefore(search=3.1e5, train_off=6e5)
    assert flops_before(pretrained(tmp_path / "x", finalist)) == FlopsBefore(3.1e5, 9e5)
    loser = pretrained(run / "select" / "25%" / "runs" / "def", finalist.with_name("def"))
    assert flops_before(loser) == FlopsBefore(3.1e5, 9e5)


def test_a_model_of_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "summary.json").write_text("[]")  # of something else
    with caplog.at_level(logging.WARNING, "evo.training"):
        assert flops_before(pretrained(tmp_path / "x", tmp_path / "model")) == FlopsBefore()
        assert not caplog.text
        assert flops_before(pretrained(tmp_path / "y", Path("/gone"))) == FlopsBefore()
    assert "/gone is gone" in caplog.text


def test_a_run_that_was_moved_is_found_and_one_that_is_gone_is_named(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained(
        run / "select" / "25%" / "runs" / "abc", run / "select" / "25%" / "finalists" / "abc"
    )
    moved = run.rename(tmp_path / "moved")
    goes_on = moved / "select" / "25%" / "runs" / "abc"
    assert flops_before(goes_on) == FlopsBefore(3.1e5, 6e5)
    (moved / "summary.json").unlink()
    with caplog.at_level(logging.WARNING, "evo.training"):
        assert flops_before(goes_on) == FlopsBefore(0.0, 6e5)
    assert f"{run} has no summary of a search" in caplog.text
    (moved / "select" / "25%" / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json is damaged"):
        flops_before(goes_on)


def test_compare_counts_it_on_both_sides(run: Path, tmp_path: Path) -> None:
    random = pretrained(tmp_path / "random", run, init="random")
    winner = run / "searches" / "a@50%" / "winner"
    runs = [random, pretrained(tmp_path / "winner", winner)]
    settings = yaml.safe_load((runs[1] / "settings.yaml").read_text())
    assert settings["model"] == str(winner)
    comparison = compare(runs, out=tmp_path / "out")
    (_, row) = comparison.groups
    assert row.alone.ratio == 1
    assert row.in_all.ratio == pytest.approx(2 / 2.41)
    assert "0.83x" in printed_table(comparison)
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"]
    assert [one["search_flops"] for one in written] == [[0.0], [4.1e5]]
    assert written[1]["ratio_in_all"] == pytest.approx(2 / 2.41)
    back = compare(runs, baseline=runs[1]).groups[0]
    assert back.in_all.ratio == pytest.approx(2.41 / 2)
    assert "all counted" not in printed_table(compare([random]))
