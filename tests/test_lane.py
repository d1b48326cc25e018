import math
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from evo.cost import forward_flops, parameters
from evo.evolution import Evolution
from evo.history import History, Row, Shard
from evo.lane import Lane
from evo.space import Space
from evo.strategy import Budget
from evo.subnet import Subnet
from tests.architectures import NEOX, random_order, share

SHARDS = 3
BUDGET = Budget(population=6, generations=3)
FILES = ("history.parquet", "state.json", "journal.jsonl")


def lane_in(directory: Path, name: str = "coarse-layerwise") -> Lane:
    space = Space(name, NEOX, random_order(NEOX.dimensions), share(NEOX, 0.4, 0.45))
    return Lane("lane", Evolution(space, BUDGET, 0), History(directory), SHARDS)


def score(candidate: str, shard: int) -> Shard:
    """A pure function of the unit; one candidate of eight fails on its last shard."""
    seed = int(candidate, 16)
    nll = float(np.random.default_rng([seed, shard]).random()) * 50
    if seed % 8 == 0 and shard == SHARDS - 1:
        return Shard(candidate, shard, math.nan, 0, 0.5, "out of memory")
    return Shard(candidate, shard, nll, 11 + shard, 0.5)


def generations(lane: Lane, rng: np.random.Generator) -> Iterator[list[tuple[str, int]]]:
    """Run generation by generation, units in any order; yields what was scored."""
    while True:
        units = [(proposal.subnet.id, shard) for proposal, shard in lane.begin_generation()]
        if lane.ended:
            return
        order = [units[index] for index in rng.permutation(len(units))]
        while order:
            count = int(rng.integers(1, 4))
            assert not lane.complete
            lane.take([score(*unit) for unit in order[:count]])
            order = order[count:]
        assert lane.complete
        lane.end_generation()
        yield units


def finish(lane: Lane, seed: int = 0) -> list[tuple[str, int]]:
    rng = np.random.default_rng(seed)
    return [unit for units in generations(lane, rng) for unit in units]


def rows_of(lane: Lane) -> list[str]:
    return [repr(row) for row in lane.history.rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Lane:
    """A search that was never interrupted."""
    lane = lane_in(tmp_path_factory.mktemp("whole"))
    finish(lane)
    return lane


def test_rows(whole):
    rows, strategy = whole.history.rows, whole.strategy
    assert len(rows) == len({row.candidate for row in rows}) == 24
    assert [row.generation for row in rows] == sorted([0, 1, 2, 3] * 6)
    assert {row.status for row in rows} == {"full", "failed"}
    for row in rows:
        subnet = Subnet.unpack(row.genome, NEOX.dimensions)
        shards = [score(row.candidate, shard) for shard in range(SHARDS)]
        assert subnet.id == row.candidate
        assert row.params == parameters(NEOX, subnet.widths)
        assert row.params in strategy.space.bin
        assert (row.layers, row.channels) == (subnet.widths.layers, subnet.widths.channels)
        assert (row.groups, row.neurons) == (subnet.widths.groups, subnet.widths.neurons)
        assert row.seconds == 1.5
        assert row.tokens == sum(shard.tokens for shard in shards)
        if row.status == "full":
            assert row.tokens == 11 + 12 + 13
            exact = sum(Fraction(shard.nll) for shard in shards) / 36
            assert row.nll == pytest.approx(float(exact), rel=1e-15)
            assert row.perplexity == math.exp(row.nll)
            assert row.reason == ""
        else:
            assert math.isnan(row.nll)
            assert math.isnan(row.perplexity)
            assert row.reason == "shard 2: out of memory"


def test_a_failed_candidate_is_no_parent_and_no_winner(whole):
    failed = {row.candidate for row in whole.history.rows if row.status == "failed"}
    assert failed
    assert not failed & {parent for row in whole.history.rows for parent in row.parents}
    best = whole.best_row()
    scored = [row for row in whole.history.rows if row.status == "full"]
    assert best == min(scored, key=lambda row: row.nll)


def test_progress(whole):
    last = [row for row in whole.history.rows if row.generation == 3]
    scored = sorted(row.nll for row in last if row.status == "full")
    progress = whole.progress
    assert (progress.generation, progress.evaluations) == (3, 24)
    assert progress.tokens == sum(row.tokens for row in whole.history.rows)
    assert progress.best == whole.best_row().nll
    assert progress.median == pytest.approx(np.median(scored))
    assert progress.failed == 6 - len(scored)
    assert whole.scored_flops(32) == sum(
        row.tokens * forward_flops(NEOX, Subnet.unpack(row.genome, NEOX.dimensions).widths, 32)
        for row in whole.history.rows
    )


@pytest.mark.parametrize("seed", [1])
def test_the_order_of_results_does_not_matter(whole, tmp_path, seed):
    lane = lane_in(tmp_path)
    finish(lane, seed)
    assert rows_of(lane) == rows_of(whole)


@pytest.mark.parametrize(("finished", "units"), [(0, 7), (0, 18), (2, 0), (2, 7), (3, 18)])
def test_killed_within_a_generation(whole, tmp_path, finished, units):
    lane, rng = lane_in(tmp_path), np.random.default_rng(5)
    running = generations(lane, rng)
    for _ in range(finished):
        next(running)
    begun = [(p.subnet.id, shard) for p, shard in lane.begin_generation()]
    taken = [begun[index] for index in rng.permutation(len(begun))[:units]]
    lane.take([score(*unit) for unit in taken])
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"candidate": "dead')

    resumed = lane_in(tmp_path)
    assert resumed.strategy.generation == finished
    assert resumed.evaluations == 6 * finished
    if finished:
        assert resumed.progress.generation == finished - 1
    left = resumed.begin_generation()
    assert {(p.subnet.id, shard) for p, shard in left} == set(begun) - set(taken)
    resumed.take([score(p.subnet.id, shard) for p, shard in left])
    assert resumed.complete
    resumed.end_generation()
    finish(resumed)
    assert rows_of(resumed) == rows_of(whole)


@pytest.mark.parametrize("generation", [0, 3])
@pytest.mark.parametrize("written", [0, 1, 2])
def test_killed_between_the_writes_that_end_a_generation(whole, tmp_path, generation, written):
    """Of table, state and journal, the first `written` are those of after the generation."""
    lane = lane_in(tmp_path / "run")
    running = generations(lane, np.random.default_rng(0))
    for _ in range(generation):
        next(running)
    lane.take([score(p.subnet.id, shard) for p, shard in lane.begin_generation()])
    shutil.copytree(tmp_path / "run", tmp_path / "before")
    lane.end_generation()

    (tmp_path / "killed").mkdir()
    for number, name in enumerate(FILES):
        source = tmp_path / ("run" if number < written else "before") / name
        if source.is_file():
            shutil.copy(source, tmp_path / "killed" / name)
    resumed = lane_in(tmp_path / "killed")
    if written < 2:
        assert resumed.begin_generation() == []
        assert resumed.complete
        resumed.end_generation()
    again = finish(resumed)
    assert not {row.candidate for row in lane.history.rows} & {unit[0] for unit in again}
    assert rows_of(resumed) == rows_of(whole)


def test_a_finished_search_stays_finished(whole):
    resumed = lane_in(whole.history.directory)
    assert resumed.ended == "budget"
    assert resumed.progress == whole.progress
    assert resumed.best_row() == whole.best_row()
    assert resumed.begin_generation() == []
    assert not resumed.has_begun
    assert not resumed.complete


def test_all_failed(tmp_path):
    lane = lane_in(tmp_path)
    wanted = lane.begin_generation()
    lane.take([Shard(p.subnet.id, shard, math.nan, 0, 0.1, "NaN") for p, shard in wanted])
    progress = lane.end_generation()
    assert (progress.best, progress.median, progress.failed) == (None, None, 6)
    assert lane.best_row() is None
    assert lane_in(tmp_path).progress == progress
    assert all(isinstance(row, Row) and row.tokens == 0 for row in lane.history.rows)
