"""Statistics of histories, against plain loops over the rows."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import numpy as np
import pytest

from dashboards.history_statistics import (
    best_so_far,
    failures,
    generation_medians,
    operator_statistics,
    winner,
)
from evo.search.history.row import Row, frame
from tests.support.histories import evolve


@pytest.fixture(scope="module", params=["coarse-uniform", "fine-layerwise"])
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """A third has failed; of the others, who is no parent may have been screened out, looking
    better than all on the little that it was scored on."""
    history = evolve(
        tmp_path_factory.mktemp("search"), request.param, generations=6, failing="NaN in the logits"
    )
    rows = history.rows()
    parents = {parent for row in rows for parent in row.parents}
    rows = [
        replace(row, status="screened", nll=0.1, fitness=0.1)
        if row.status == "full" and row.candidate not in parents and int(row.candidate, 16) % 2
        else row
        for row in rows
    ]
    assert {row.status for row in rows} == {"full", "screened", "failed"}
    return rows


def valid(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.status == "full"]


def test_winner_is_the_best_that_was_scored(history: list[Row]) -> None:
    best = winner(frame(history))
    expected = min(valid(history), key=lambda row: (row.fitness, row.candidate))
    assert best is not None
    assert best["candidate"] == expected.candidate


def test_no_winner_where_nothing_is_scored(history: list[Row]) -> None:
    failed = [row for row in history if row.status == "failed"]
    assert failed
    assert winner(frame(failed)) is None
    assert winner(frame([])) is None


def test_best_so_far_never_rises_and_passes_over_failures(history: list[Row]) -> None:
    best, expected = math.inf, []
    for row in history:
        best = min(best, row.nll) if row.status == "full" else best
        expected.append(best if best < math.inf else math.nan)
    np.testing.assert_array_equal(best_so_far(frame(history)), expected)


def test_generation_medians(history: list[Row]) -> None:
    medians = generation_medians(frame(history))
    assert medians.index.tolist() == list(range(7))
    for generation, (evaluations, nll) in medians.iterrows():
        rows = [row for row in history if row.generation == generation]
        assert evaluations == 8 * (generation + 1)
        assert nll == pytest.approx(statistics.median(row.nll for row in valid(rows)))


def test_operator_statistics(history: list[Row]) -> None:
    table = operator_statistics(frame(history)).set_index("operator")
    nll = {row.candidate: row.nll for row in history}
    new_bests: list[str] = []
    best = math.inf
    for generation in range(7):
        top = min(
            valid([row for row in history if row.generation == generation]),
            key=lambda row: row.nll,
        )
        if top.nll < best:
            best = top.nll
            new_bests += [top.operator] if generation else []
    assert new_bests
    assert table["candidates"].sum() == len(history)
    for operator, row in table.iterrows():
        own = [one for one in history if one.operator == operator]
        bred = [one for one in own if one.parents and one.status != "failed"]
        assert row["candidates"] == len(own)
        assert row["failed"] == sum(one.status == "failed" for one in own)
        assert row["screened"] == sum(one.status == "screened" for one in own)
        assert row["with_parents"] == len(bred)
        assert row["better_than_parents"] == sum(
            all(one.nll < nll[parent] for parent in one.parents) for one in valid(bred)
        )
        assert row["new_bests"] == new_bests.count(str(operator))
        assert row["best_nll"] == min(one.nll for one in valid(own))


def test_failures_are_counted_by_reason_whatever_the_shard(history: list[Row]) -> None:
    rows = [row for row in history if row.status == "failed"]
    table = failures(frame(history))
    assert table.to_dict("records") == [
        {
            "reason": "NaN in the logits",
            "candidates": len(rows),
            "example": min(row.candidate for row in rows),
        }
    ]
    assert failures(frame(valid(history))).empty
