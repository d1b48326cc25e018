import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import Budget, Rates
from evo.algorithms.surrogate import Surrogate
from evo.genome.bins import Bin
from evo.genome.cost import Cost, LatencyUnitCosts, forward_flops, parameters
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.search.failures import failures
from evo.search.generation import Request, Screening
from evo.search.history.history import History
from evo.search.history.row import Row
from evo.search.score_cache import ScoreCache
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.rungs import survivors
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.search import Search
from evo.search.shard_score import ShardScore
from tests.support.architectures import NEOX, random_order, share

SEQUENCES, TARGETS = 40, 5
BUDGET = Budget(population=12, generations=3)
RUNGS = {
    "full": Rungs(),
    "rungs": Rungs((0.1, 0.3), survivors=0.4),
    "abort": Rungs((0.1,), survivors=1, confidence=1),
    "chosen": Rungs((0.1, 0.3), survivors=0.4),
}
"""With the last, a model chooses among proposals."""
WEIGHTS = np.random.default_rng(3).uniform(0.5, 2, SEQUENCES)


def search_in(
    directory: Path,
    kind: str,
    name: str = "coarse-layerwise",
    cache: ScoreCache | None = None,
    bin: Bin | None = None,
) -> Search:
    bin = bin or share(NEOX, 0.4, 0.45)
    space = Space(name, NEOX, random_order(NEOX.dimensions), bin)
    strategy = Evolution(space, BUDGET, 0, Rates(elites=3, proposals=4))
    if kind == "chosen":
        strategy.chooser = Surrogate(space, strategy.niche)
    stages = Stages.of(RUNGS[kind], SEQUENCES, 4)
    screening = Screening(stages, RUNGS[kind], SequenceWeights(WEIGHTS))
    return Search("search", strategy, History(directory), screening, cache)


def losses(candidate: str) -> np.ndarray:
    """Of every sequence: candidates differ, sequences differ, and there is noise."""
    seed = int(candidate, 16)
    rng = np.random.default_rng(seed)
    return TARGETS * (4 + rng.random() + np.arange(SEQUENCES) / 20 + rng.normal(0, 0.2, SEQUENCES))


def score(search: Search, candidate: str, shard: int) -> ShardScore:
    """A pure function of the unit; one candidate of eight fails on its first shard."""
    if int(candidate, 16) % 8 == 0 and shard == 0:
        return ShardScore.failed("out of memory", 0.5)
    start, stop = search.stages.shards[shard]
    nll = tuple(losses(candidate)[start:stop].tolist())
    return ShardScore(nll, TARGETS * (stop - start), 0.5)


def seen_in(generation: int) -> np.ndarray:
    """Sequences in the order of scoring: each generation screens on others than the one before."""
    return np.roll(np.arange(SEQUENCES), -(generation * 4 % SEQUENCES))


def units_of(requests: list[Request]) -> list[tuple[str, int]]:
    return [(proposal.subnet.id, shard) for proposal, shard in requests]


def generations(search: Search, rng: np.random.Generator) -> Iterator[list[tuple[str, int]]]:
    """Run generation by generation, units in any order; yields what was scored."""
    while True:
        queue = units_of(search.begin_generation()) + units_of(search.advance())
        if search.ended:
            return
        scored = []
        while queue:
            assert not search.complete
            taken = [queue.pop(rng.integers(len(queue))) for _ in range(min(3, len(queue)))]
            search.take({unit: score(search, *unit) for unit in taken})
            queue += units_of(search.advance())
            queue = [unit for unit in queue if unit[0] not in search.dropped]
            scored += taken
        assert search.complete
        search.end_generation()
        yield scored


def finish(search: Search, seed: int = 0) -> list[tuple[str, int]]:
    rng = np.random.default_rng(seed)
    return [unit for units in generations(search, rng) for unit in units]


def rows_of(search: Search) -> list[str]:
    return [repr(row) for row in search.history.rows()]


@pytest.fixture(scope="module", params=list(RUNGS))
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def whole(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search that was never interrupted."""
    search = search_in(tmp_path_factory.mktemp("whole"), kind)
    finish(search)
    return search


def test_rows(whole, kind):
    rows, strategy = whole.history.rows(), whole.strategy
    assert len(rows) == len({row.candidate for row in rows}) == 48
    assert [row.generation for row in rows] == sorted([0, 1, 2, 3] * 12)
    expected = {"full", "failed"} | ({"screened"} if kind != "full" else set())
    assert {row.status for row in rows} == expected
    for row in rows:
        subnet = Subnet.unpack(row.genome, NEOX.dimensions)
        assert subnet.id == row.candidate
        assert row.params == parameters(NEOX, subnet.widths)
        assert row.params in strategy.space.bin
        assert (row.layers, row.channels) == (subnet.widths.layers, subnet.widths.channels)
        assert (row.groups, row.neurons) == (subnet.widths.groups, subnet.widths.neurons)
        if row.status == "failed":
            assert math.isnan(row.nll)
            assert math.isnan(row.fitness)
            assert math.isnan(row.perplexity)
            assert row.reason == "shard 0: out of memory"
            continue
        count = row.tokens // TARGETS
        assert count == SEQUENCES if row.status == "full" else 4 <= count < SEQUENCES
        seen = np.arange(SEQUENCES) if kind == "full" else seen_in(row.generation)
        per_target = losses(row.candidate)[seen[:count]] / TARGETS
        expected_nll = np.average(per_target, weights=WEIGHTS[seen[:count]])
        assert row.nll == row.fitness == pytest.approx(expected_nll, rel=1e-14)
        assert row.perplexity == math.exp(row.nll)
        assert row.reason == ""


def test_only_full_rows_are_parents_and_winners(whole):
    rows = {row.candidate: row for row in whole.history.rows()}
    parents = {rows[parent].status for row in rows.values() for parent in row.parents}
    assert parents == {"full"}
    full = [row for row in rows.values() if row.status == "full"]
    assert whole.best_row() == min(full, key=lambda row: row.fitness)


@pytest.mark.parametrize(("case", "ends"), [("rungs", (4, 12)), ("abort", (4,))])
def test_decisions_are_those_of_plain_arithmetic(tmp_path, case, ends):
    """The stages of every generation, played again from all losses at once."""
    search, rungs = search_in(tmp_path, case), RUNGS[case]
    finish(search)
    elites: dict[str, np.ndarray] = {}
    first_seen = set()
    for generation in range(4):
        seen = seen_in(generation)
        first_seen.add(seen[0])
        rows = [row for row in search.history.rows() if row.generation == generation]
        running = {r.candidate: losses(r.candidate) * WEIGHTS for r in rows if r.status != "failed"}
        parents = {row.candidate: row.parents for row in rows}
        full_elites = dict(elites)
        expected = {row.candidate: 0 for row in rows if row.status == "failed"}
        for count in ends:
            part = {}
            for name, one in running.items():
                known = [elites[each] for each in parents[name]] or list(elites.values())
                easier = np.mean(known, axis=0) if known else np.zeros(SEQUENCES)
                part[name] = (one - easier)[seen[:count]] + easier.mean()
            past = {name: one.mean() for name, one in elites.items()}
            kept = survivors(rungs, part, past, 3)
            expected |= dict.fromkeys(running.keys() - kept, count)
            running = {name: one for name, one in running.items() if name in kept}
        for name, one in running.items():
            expected[name] = SEQUENCES
            if len(full_elites) == 3:
                limit = sorted(each.sum() for each in full_elites.values())[-1]
                beyond = [
                    end for end in range(4, 41, 4) if one[seen[:end]].sum() > limit * (1 + 1e-9)
                ]
                expected[name] = min(beyond, default=SEQUENCES)
            if expected[name] == SEQUENCES:
                elites[name] = one
        elites = dict(sorted(elites.items(), key=lambda item: item[1].sum())[:3])
        assert {row.candidate: row.tokens // TARGETS for row in rows if row.status != "failed"} == {
            name: count for name, count in expected.items() if count
        }
    assert len(first_seen) == 4
    counts = {row.tokens // TARGETS for row in search.history.rows() if row.status == "screened"}
    assert counts & set(ends) if case == "rungs" else counts - set(ends)


def test_progress(whole, kind):
    last = [row for row in whole.history.rows() if row.generation == 3]
    full = [row for row in whole.history.rows() if row.status == "full"]
    scored = [row.nll for row in full if row.generation == max(one.generation for one in full)]
    progress = whole.progress
    assert (progress.generation, progress.evaluations) == (3, 48)
    assert progress.tokens == sum(row.tokens for row in whole.history.rows())
    assert progress.best == whole.best_row().nll
    assert progress.median == pytest.approx(np.median(scored))
    assert progress.failed == sum(row.status == "failed" for row in last)
    assert progress.screened == sum(row.status == "screened" for row in last)
    assert whole.scored_flops(32) == sum(
        row.tokens * forward_flops(NEOX, Subnet.unpack(row.genome, NEOX.dimensions).widths, 32)
        for row in whole.history.rows()
    )


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_of_results_does_not_matter(whole, kind, tmp_path, seed):
    search = search_in(tmp_path, kind)
    finish(search, seed)
    assert rows_of(search) == rows_of(whole)


@pytest.mark.parametrize(("finished", "units"), [(0, 7), (0, 30), (2, 0), (2, 7), (3, 30)])
def test_killed_within_a_generation(whole, kind, tmp_path, finished, units):
    search, rng = search_in(tmp_path, kind), np.random.default_rng(5)
    running = generations(search, rng)
    for _ in range(finished):
        next(running)
    queue = units_of(search.begin_generation())
    for _ in range(units):
        if not queue:
            break
        unit = queue.pop(rng.integers(len(queue)))
        search.take({unit: score(search, *unit)})
        queue += units_of(search.advance())
        queue = [unit for unit in queue if unit[0] not in search.dropped]
    search.history.flush()
    journal = search.history.journal(search.strategy.generation).scores_file
    with journal.open("ab") as file:
        file.write(b'{"candidate": "dead')

    resumed = search_in(tmp_path, kind)
    assert resumed.strategy.generation == finished
    assert resumed.evaluations == 12 * finished
    if finished:
        assert resumed.progress.generation == finished - 1
    left = units_of(resumed.begin_generation()) + units_of(resumed.advance())
    assert sorted(left) == sorted(queue)
    resumed = search_in(tmp_path, kind)
    again = finish(resumed)
    assert rows_of(resumed) == rows_of(whole)
    assert len(again) == len(set(again))


@pytest.mark.parametrize("generation", [0, 3])
@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_killed_between_the_writes_that_end_a_generation(
    whole, kind, tmp_path, generation, written
):
    """Of part, state and journal, the first `written` are those of after the generation."""
    search = search_in(tmp_path / "run", kind)
    running = generations(search, np.random.default_rng(0))
    for _ in range(generation):
        next(running)
    queue = units_of(search.begin_generation())
    while queue:
        search.take({unit: score(search, *unit) for unit in queue})
        queue = units_of(search.advance())
    search.history.flush()
    shutil.copytree(tmp_path / "run", tmp_path / "before")
    search.end_generation()
    search.history.flush()

    killed = tmp_path / "killed"
    shutil.copytree(tmp_path / "before", killed)
    if written > 0:
        parts = search.history.parquet
        shutil.copytree(parts, killed / parts.name, dirs_exist_ok=True)
    if written > 1:
        shutil.copy(search.history.state_file, killed)
    if written > 2:
        History(killed).journal(generation).remove()
    resumed = search_in(killed, kind)
    assert not list(killed.glob(f"*-{generation:06}.json*")) or written < 2
    if written < 2:
        resumed.begin_generation()
        assert resumed.advance() == []
        assert resumed.complete
        resumed.end_generation()
    again = finish(resumed)
    assert not {row.candidate for row in search.history.rows()} & {unit[0] for unit in again}
    assert rows_of(resumed) == rows_of(whole)


def test_a_finished_search_stays_finished(whole, kind):
    resumed = search_in(whole.history.directory, kind)
    assert resumed.ended == "budget"
    assert resumed.progress == whole.progress
    assert resumed.best_row() == whole.best_row()
    assert resumed.begin_generation() == []
    assert resumed.advance() == []
    assert not resumed.has_begun
    assert not resumed.complete


def test_all_failed(tmp_path, kind):
    search = search_in(tmp_path, kind)
    wanted = units_of(search.begin_generation())
    search.take(dict.fromkeys(wanted, ShardScore.failed("NaN", 0.1)))
    assert search.advance() == []
    progress = search.end_generation()
    assert (progress.best, progress.median, progress.failed) == (None, None, 12)
    assert search.best_row() is None
    assert search_in(tmp_path, kind).progress == progress
    assert all(isinstance(row, Row) and row.tokens == 0 for row in search.history.rows())


def without_seconds(search: Search) -> list[str]:
    return [repr(dataclasses.replace(row, seconds=0.0)) for row in search.history.rows()]


@pytest.mark.parametrize("kind", RUNGS)
def test_what_an_earlier_run_scored_is_not_scored_again(tmp_path, kind):
    first = search_in(tmp_path / "first", kind, cache=ScoreCache(tmp_path / "cache", {}))
    scored = finish(first)
    assert first.cached_units == 0
    second = search_in(tmp_path / "second", kind, cache=ScoreCache(tmp_path / "cache", {}))
    again = finish(second, seed=1)
    assert without_seconds(second) == without_seconds(first)
    failing = {unit for unit in scored if score(first, *unit).failure is not None}
    assert failing
    assert failing <= set(again)  # it may have been the machine's fault
    # besides, only what the first run did not wait for
    assert not (set(again) - failing) & set(scored)
    assert second.cached_units > 0.9 * len(scored)
    assert sum(row.seconds for row in second.history.rows()) < 0.2 * sum(
        row.seconds for row in first.history.rows()
    )


@pytest.mark.parametrize("kind", RUNGS)
def test_a_cache_of_some_units_changes_nothing(tmp_path, kind):
    whole = search_in(tmp_path / "whole", kind)
    scored = finish(whole)
    cache, rng = ScoreCache(tmp_path / "cache", {}), np.random.default_rng(0)
    known = [unit for unit in scored if rng.random() < 0.4]
    stages = Stages.of(RUNGS[kind], SEQUENCES, 4)
    rotated = {row.candidate: stages.rotated(row.generation) for row in whole.history.rows()}
    for candidate, shard in known:
        rows = rotated[candidate].shards[shard]
        nll = tuple(losses(candidate)[slice(*rows)].tolist())
        if int(candidate, 16) % 8:  # the others fail
            cache.put([(candidate, rows, ShardScore(nll, TARGETS * len(nll), 0.0))])
    search = search_in(tmp_path / "search", kind, cache=cache)
    again = finish(search, seed=1)
    assert without_seconds(search) == without_seconds(whole)
    assert search.cached_units > 0.2 * len(scored)
    assert len(again) < len(scored)


def test_killed_with_a_cache_that_is_gone(tmp_path):
    """What came from the cache is in no journal; without the cache it is scored."""
    filled = ScoreCache(tmp_path / "cache", {})
    whole = search_in(tmp_path / "whole", "rungs", cache=filled)
    finish(whole)
    killed = search_in(tmp_path / "killed", "rungs", cache=filled)
    running = generations(killed, np.random.default_rng(0))
    next(running)
    killed.begin_generation()
    killed.advance()
    resumed = search_in(tmp_path / "killed", "rungs")
    finish(resumed)
    assert without_seconds(resumed) == without_seconds(whole)


def test_a_latency_outside_the_bin_is_a_failure(kind, tmp_path):
    """Measured with the first shard: what was predicted, times something of the candidate's own."""
    ms = 10**12
    cost = Cost("latency", 8, LatencyUnitCosts(ms, ms // 99, ms, ms // 50, ms // 999, 0, ms // 999))
    bin = share(NEOX, 0.4, 0.45, cost)
    measured: dict[str, int] = {}

    def timed(search: Search, candidate: str, shard: int, predicted: int) -> ShardScore:
        one = score(search, candidate, shard)
        if shard or one.failure is not None:
            return one
        measured[candidate] = int(predicted * (0.8 + 0.4 * (int(candidate, 16) % 101) / 100))
        return dataclasses.replace(one, latency=measured[candidate])

    def run(directory: Path, *, dies_every: int | None) -> Search:
        def fresh() -> Search:
            return search_in(directory, kind, bin=bin)

        search, predicted, count = fresh(), {}, 0
        while True:
            wanted = search.begin_generation() + search.advance()
            if search.ended:
                return search
            while wanted and not search.complete:
                proposal, shard = wanted.pop(0)
                candidate = proposal.subnet.id
                if candidate in search.dropped:
                    continue
                predicted[candidate] = cost.of(NEOX, proposal.subnet.widths)
                assert predicted[candidate] in bin
                timing = timed(search, candidate, shard, predicted[candidate])
                search.take({(candidate, shard): timing})
                count += 1
                if dies_every and count % dies_every == 0:
                    search = fresh()
                    wanted = search.begin_generation() + search.advance()
                else:
                    wanted += search.advance()
            search.end_generation()

    search = run(tmp_path / "whole", dies_every=None)
    assert rows_of(run(tmp_path / "killed", dies_every=7)) == rows_of(search)
    reasons = 0
    for row in search.history.rows():
        if "out of memory" in row.reason:
            continue
        assert row.cost == measured[row.candidate]
        outside = not bin.low <= row.cost <= bin.high
        assert (row.status == "failed") == outside
        if outside:
            reasons += 1
            shown = f"{row.cost / ms:.4g}"
            assert row.reason == f"latency {shown} ms is outside the bin {bin.name}"
            assert row.tokens == TARGETS * search.stages.sizes[0]
    assert 0 < reasons < len(search.history.rows())


def test_a_search_whose_first_generation_fails_ends_at_once(tmp_path):
    search = search_in(tmp_path, "rungs")
    requests = search.begin_generation() + search.advance()
    for number, (proposal, shard) in enumerate(requests):
        reason = "out of memory" if number % 3 else f"NLL of sequence {number} is nan"
        search.take({(proposal.subnet.id, shard): ShardScore.failed(reason)})
    search.advance()
    search.end_generation()
    assert search.ended == "failed"
    assert search_in(tmp_path, "rungs").ended == "failed"
    assert failures(search.history.frame()) == {"out of memory": 8, "NLL of a sequence is nan": 4}
