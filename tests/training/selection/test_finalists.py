"""Which candidates of a run take part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evo.algorithms import one_shot
from evo.embedded import teacher_path
from evo.errors import UserError
from evo.model import checkpoint
from evo.search.history.history import History
from evo.search.history.row import Status
from tests.support.searched import searched
from training.selection import finalists
from training.selection.finalists import Finalist, bin_of, choose, cut_out


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two spaces in one bin, one in another."""
    counts = {"coarse-uniform@25%": 9, "fine-layerwise@25%": 7, "coarse-uniform@50%": 3}
    run = searched(tmp_path_factory.mktemp("searched") / "run", teacher_path(), counts)
    # The best of one space is in the other as well.
    first, second = (History(run / "searches" / name) for name in list(counts)[:2])
    best = min((row for row in first.rows() if row.status == "full"), key=lambda row: row.fitness)
    assert second.state is not None
    second.fold([*second.rows(), best], second.state)
    second.flush()
    return run


def test_the_best_of_each_depth_in_all_spaces_then_the_second_bests(run: Path) -> None:
    chosen = choose(run, "25%", 100)
    assert len({one.candidate for one in chosen}) == len(chosen) == 16
    assert {one.search for one in chosen} == {"coarse-uniform@25%", "fine-layerwise@25%"}
    depths = len({one.layers for one in chosen})
    assert 3 <= depths < 16
    first = chosen[:depths]
    assert len({one.layers for one in first}) == depths
    assert [one.fitness for one in first] == sorted(one.fitness for one in first)
    for one in first:
        assert one.fitness == min(other.fitness for other in chosen if other.layers == one.layers)
    assert choose(run, "25%", 5) == chosen[:5]


@pytest.mark.parametrize("status", ["screened", "full", "failed"])
def test_the_network_by_one_shot_pruning_has_the_last_place(tmp_path: Path, status: Status) -> None:
    run = searched(tmp_path / "run", teacher_path(), {"coarse-uniform@25%": 9})
    history = History(run / "searches" / "coarse-uniform@25%")
    rows = history.rows()
    worst = max((row for row in rows if row.status == "full"), key=lambda row: row.fitness)
    pruned = replace(worst, operator=one_shot.OPERATOR, status=status)
    rest = [row for row in rows if row.candidate != worst.candidate]
    assert history.state is not None
    history.fold([*rest, pruned], history.state)
    history.flush()
    chosen = choose(run, "25%", 4)
    assert len(chosen) == 4
    takes_part = worst.candidate in {one.candidate for one in chosen}
    assert takes_part == (status != "failed")
    if status == "failed":
        return
    if status == "screened":
        assert chosen[-1].candidate == worst.candidate
        assert chosen[:3] == choose(run, "25%", 100)[:3]
    cut_out(chosen, run, "25%", checkpoint.load(teacher_path()), tmp_path / "finalists")
    assert checkpoint.load(tmp_path / "finalists" / worst.candidate).widths.layers == worst.layers


def test_a_candidate_of_both_spaces_takes_part_once(run: Path) -> None:
    best = min(choose(run, "25%", 100), key=lambda one: one.fitness)
    assert best.search == "coarse-uniform@25%"


def test_the_bin_is_needed_only_where_there_are_several(run: Path, tmp_path: Path) -> None:
    assert bin_of(run, "50%") == "50%"
    with pytest.raises(UserError, match="say which bin: --bin is one of 25%, 50%"):
        bin_of(run, None)
    with pytest.raises(UserError, match="has no bin '75%'"):
        bin_of(run, "75%")
    with pytest.raises(UserError, match="is no run"):
        bin_of(tmp_path, None)
    one = searched(tmp_path / "one", teacher_path(), {"fine-uniform@1M-2M": 1})
    assert bin_of(one, None) == "1M-2M"
    with pytest.raises(UserError, match="has 1 candidates in 1M-2M that are scored in full"):
        choose(one, "1M-2M", 16)


def test_they_are_kept_and_cut_out_as_they_were_chosen(run: Path, tmp_path: Path) -> None:
    assert finalists.load(tmp_path) is None
    chosen = choose(run, "50%", 2)
    finalists.save(chosen, tmp_path)
    assert finalists.load(tmp_path) == chosen
    teacher = checkpoint.load(teacher_path())
    for _ in range(2):  # the second time there is nothing left to do
        cut_out(chosen, run, "50%", teacher, tmp_path / "finalists")
    for one in chosen:
        stored = checkpoint.load(tmp_path / "finalists" / one.candidate)
        assert stored.widths.layers == one.layers
        origin = json.loads((stored.path / "subnet.json").read_text())
        assert (origin["candidate"], origin["bin"]) == (one.candidate, "50%")
        assert origin["space"] == "coarse-uniform"


def test_finalists_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    stranger = Finalist("f" * 16, "coarse-uniform@50%", 2, 1000, 3.0)
    with pytest.raises(UserError, match=f"has no candidate {'f' * 16}"):
        cut_out([stranger], run, "50%", checkpoint.load(teacher_path()), tmp_path / "finalists")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / finalists.FILE).write_text('[{"candidate": 1}]')
    with pytest.raises(UserError, match=r"finalists\.json is damaged"):
        finalists.load(tmp_path)
