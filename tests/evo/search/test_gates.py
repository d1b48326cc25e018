"""Gradients in a search: whose, on what, and that a search that was interrupted stays the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import Budget, Rates
from evo.errors import UserError
from evo.genome.cost import forward_flops
from evo.genome.operators.gate_swaps import GateGradients
from evo.genome.space import Space
from evo.genome.subnet import Subnet, Widths
from evo.search.gates import MOST_FAILURES, PASSES, SEQUENCES, Gates, GateText
from evo.search.generation import Screening
from evo.search.history.history import History
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.search import Search
from evo.search.shard_score import ShardScore
from tests.evo.search.test_search import WEIGHTS, finish, rows_of
from tests.support.architectures import NEOX, random_order, share

TEXT = GateText(40, 60, 6)
BUDGET = Budget(population=12, generations=5)


def search_in(directory: Path) -> Search:
    space = Space("fine-layerwise", NEOX, random_order(NEOX.dimensions), share(NEOX, 0.4, 0.45))
    strategy = Evolution(space, BUDGET, 0, Rates(elites=4))
    screening = Screening(Stages.of(Rungs(), 40, 4), Rungs(), SequenceWeights(WEIGHTS))
    return Search("search", strategy, History(directory), screening, gate_text=TEXT)


def gradients(candidate: str, row: int) -> GateGradients:
    """A pure function of the candidate and the sequence."""
    rng, d = np.random.default_rng([int(candidate, 16), row]), NEOX.dimensions
    shapes = (d.channels,), (d.layers, d.groups), (d.layers, d.neurons)
    return GateGradients(*(rng.standard_normal(shape, np.float32) for shape in shapes))


def take_gradient(search: Search, order: np.random.Generator | None = None) -> list[int]:
    """The sequences on which it is taken; the parts come in any order."""
    requests = search.open_gates()
    assert search.awaits_gates == bool(requests)
    for place in order.permutation(len(requests)) if order else range(len(requests)):
        candidate, part, row = requests[place]
        search.take_gates({(candidate.id, part): gradients(candidate.id, row)})
    assert not search.awaits_gates
    return [row for _, _, row in requests]


class Interrupted:
    """Runs a search; after each step of it, another process would find its files as they are."""

    def __init__(self, search: Search, seed: int = 0) -> None:
        self.search, self.rng = search, np.random.default_rng(seed)
        self.rows: list[list[int]] = []

    def run(self, steps: int = 10**6) -> None:
        """Gradient, proposals and scores are a step each."""
        search = self.search
        while not search.ended and steps > 0:
            self.rows.append(take_gradient(search, self.rng))
            steps -= 1
            if steps <= 0:
                return
            requests = search.begin_generation() + search.advance()
            steps -= 1
            if steps <= 0:
                return
            for proposal, shard in requests:
                values = np.random.default_rng([int(proposal.subnet.id, 16), shard]).random(4)
                score = ShardScore(tuple((20 + values).tolist()), 20, 0.1)
                search.take({(proposal.subnet.id, shard): score})
            search.advance()
            search.end_generation()
            steps -= 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    run = Interrupted(search_in(tmp_path_factory.mktemp("whole")))
    run.run()
    return run


def test_half_of_a_generation_swaps_units_of_elites(whole: Interrupted) -> None:
    rows = whole.search.history.rows()
    subnets = {row.candidate: Subnet.unpack(row.genome, NEOX.dimensions) for row in rows}
    for generation in range(1, 6):
        gated = [r for r in rows if r.generation == generation and r.operator == "gates"]
        assert len(gated) == 6
        for row in gated:
            (parent,) = row.parents
            assert np.array_equal(subnets[parent].layers, subnets[row.candidate].layers)
            assert row.params == next(one.params for one in rows if one.candidate == parent)
    assert not any(row.operator == "gates" for row in rows if row.generation == 0)


def test_gradients_take_turns_on_the_sequences(whole: Interrupted) -> None:
    assert whole.rows[0] == []  # there are no elites yet
    assert whole.rows[1] == [48, 49, 50, 51, 52, 53, 54, 55]
    assert whole.rows[2] == [56, 57, 58, 59, 40, 41, 42, 43]
    assert all(len(rows) in (0, SEQUENCES) for rows in whole.rows)


def test_the_gradient_is_the_mean_over_its_sequences(tmp_path: Path) -> None:
    gates = Gates(tmp_path / "gates", TEXT, NEOX, None)
    space = Space("fine-uniform", NEOX, random_order(NEOX.dimensions), share(NEOX, 0.4, 0.45))
    subnet = space.sample(np.random.default_rng(0))
    parts = gates.open(subnet, 2)
    for part, row in reversed(parts):
        assert gates.awaited
        gates.take({(subnet.id, part): gradients(subnet.id, row), ("another", part): SCORE})
    found = gates.known[subnet.id]
    assert found is not None
    for name in ("channels", "groups", "neurons"):
        rows = [getattr(gradients(subnet.id, row), name) for _, row in parts]
        assert np.allclose(getattr(found, name), np.mean(rows, axis=0), atol=1e-6)
    # Three forward passes of the kept layers, which are as wide as the teacher's.
    count = int(subnet.layers.sum())
    d = NEOX.dimensions
    widths = Widths(d.channels, (d.groups,) * count, (d.neurons,) * count)
    assert gates.flops == PASSES * 8 * 6 * forward_flops(NEOX, widths, 6)


SCORE = ShardScore.failed("out of memory")


class Late:
    """A thread that is so slow that it begins only when it is waited for."""

    def submit(self, write: Callable[..., None], *given: object) -> SimpleNamespace:
        return SimpleNamespace(result=cache(partial(write, *given)))


@pytest.mark.parametrize("written", ["on disk", "still to be written"])
@pytest.mark.parametrize("steps", range(1, 16))
def test_interrupted_at_any_step_it_ends_as_if_it_had_not_been(
    steps: int, written: str, whole: Interrupted, tmp_path: Path
) -> None:
    before = search_in(tmp_path / "run")
    if written != "on disk":
        before.history._writer = Late()
    Interrupted(before, seed=steps).run(steps)
    if written == "on disk":
        before.history.flush()
    again = Interrupted(search_in(tmp_path / "run"), seed=steps + 1)
    again.run()
    assert rows_of(again.search) == rows_of(whole.search)
    assert again.search.history.state == whole.search.history.state
    assert again.search.history.state is not None
    kept = {path.stem for path in (tmp_path / "run" / "gates").iterdir()}
    assert kept == set(again.search.history.state["gates"]["known"])


def fail_a_gradient(search: Search) -> str:
    """The candidate."""
    candidate, part, _ = search.open_gates()[0]
    assert search.take_gates({(candidate.id, part): SCORE}) == [candidate.id]
    assert not search.awaits_gates
    return candidate.id


def test_a_gradient_that_could_not_be_had_stays_so_through_a_crash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where no candidate was written down before the crash."""
    before = search_in(tmp_path / "run")
    Interrupted(before).run(3)
    before.history.flush()
    candidate = fail_a_gradient(before)
    assert f"candidate {candidate} has no gradient: out of memory" in caplog.text
    shutil.copytree(tmp_path / "run", tmp_path / "killed")
    Interrupted(before).run()
    again = search_in(tmp_path / "killed")
    Interrupted(again).run()
    assert rows_of(again) == rows_of(before)
    assert again.history.state == before.history.state
    assert again.ended == "budget"
    assert not list((tmp_path / "killed" / "gates").glob(f"{candidate}.npz"))


def test_a_search_that_cannot_have_gradients_stops_asking(tmp_path: Path) -> None:
    search = search_in(tmp_path)
    run = Interrupted(search)
    failed = []
    while not search.ended:
        requests = search.open_gates()
        if requests:
            candidate, part, _ = requests[0]
            search.take_gates({(candidate.id, part): SCORE})
            failed.append(candidate.id)
        run.run(3)
    assert len(failed) == len(set(failed)) <= MOST_FAILURES


def test_a_gradient_that_is_not_finite_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gates = Gates(tmp_path / "gates", GateText(0, 1, 6), NEOX, None)
    subnet = Subnet.full(NEOX.dimensions)
    ((part, row),) = gates.open(subnet, 0)
    broken = gradients(subnet.id, row)
    broken.neurons[0, 0] = np.nan
    gates.take({(subnet.id, part): broken})
    assert gates.known == {subnet.id: None}
    assert "it is not finite" in caplog.text


def test_a_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    search = search_in(tmp_path / "run")
    Interrupted(search).run(6)
    search.history.flush()
    files = list((tmp_path / "run" / "gates").iterdir())
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    for path in files:
        whole = path.read_bytes()
        for damaged in (b"half", b"", whole[: len(whole) // 2], whole[:-1], b"\0" * len(whole)):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match="is damaged"):
                search_in(tmp_path / "run")
    shutil.rmtree(tmp_path / "other" / "gates")
    with pytest.raises(UserError, match="remove the search's directory"):
        search_in(tmp_path / "other")


def test_a_search_without_a_text_takes_none(tmp_path: Path) -> None:
    space = Space("fine-layerwise", NEOX, random_order(NEOX.dimensions), share(NEOX, 0.4, 0.45))
    strategy = Evolution(space, BUDGET, 0)
    screening = Screening(Stages.of(Rungs(), 40, 4), Rungs(), SequenceWeights(WEIGHTS))
    search = Search("search", strategy, History(tmp_path), screening)
    finish(search)
    assert search.open_gates() == []
    assert not any(row.operator == "gates" for row in search.history.rows())
