"""Candidates compete within their number of layers, and what a history has of each is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evo.algorithms.base import Proposal
from evo.algorithms.map_elites import MapElites
from evo.algorithms.settings import Budget, Rates
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.search.generation import EliteLosses, Screening
from evo.search.history.history import History
from evo.search.history.row import Row, frame
from evo.search.niches import best_of_niches, in_turns
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.search import Search
from evo.search.shard_score import ShardScore
from tests.evo.search.test_search import RUNGS, finish, generations, rows_of, score
from tests.support.architectures import NEOX, random_order, share
from tests.support.histories import evolve

SEQUENCES, TARGETS = 40, 5
DEPTHS = (2, 3, 4)
"""Numbers of layers that the bin of `search_in` allows."""


def search_in(directory: Path, kind: str, elites: int = 8) -> Search:
    order = random_order(NEOX.dimensions)
    space = Space("fine-layerwise", NEOX, order, share(NEOX, 0.4, 0.45))
    strategy = MapElites(space, Budget(24, 5), 0, Rates(elites=elites))
    screening = Screening(
        Stages.of(RUNGS[kind], SEQUENCES, 4), RUNGS[kind], SequenceWeights.equal(SEQUENCES)
    )
    return Search("search", strategy, History(directory), screening)


def deeper_is_worse(search: Search, candidate: str, shard: int) -> ShardScore:
    """By more than candidates of a depth differ, so that the best of all have one layer."""
    one = score(search, candidate, shard)
    if one.failure is not None:
        return one
    depth = search._generation.proposals[candidate].subnet.widths.layers  # type: ignore[union-attr]
    return replace(one, nll=tuple(nll + 3 * TARGETS * depth for nll in one.nll))


@pytest.fixture(params=RUNGS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def run_to_its_end(search: Search) -> None:
    while True:
        queue = [*search.begin_generation(), *search.advance()]
        if search.ended:
            return
        while queue:
            search.take(
                {
                    (one.subnet.id, shard): deeper_is_worse(search, one.subnet.id, shard)
                    for one, shard in queue
                }
            )
            queue = search.advance()
        search.end_generation()


def test_no_depth_is_screened_out_by_another(tmp_path: Path, kind: str) -> None:
    search = search_in(tmp_path, kind)
    run_to_its_end(search)
    full = [row for row in search.history.rows() if row.status == "full"]
    later = dict.fromkeys(DEPTHS, 0)
    for row in full:
        later[row.layers] += row.generation > 0
    assert min(later.values()) >= 2
    assert isinstance(search.strategy, MapElites)
    for layers, niche in search.strategy.niches.items():
        best = sorted(row.fitness for row in full if row.layers == layers)[:2]
        assert [one.fitness for one in niche] == best


def test_a_full_niche_costs_no_more_than_its_share_of_the_rungs(tmp_path: Path) -> None:
    """In all, as many as the share of the generation, or as places were free."""
    search = search_in(tmp_path, "rungs")
    run_to_its_end(search)
    filled = dict.fromkeys(DEPTHS, 0)
    for generation in range(6):
        rows = [row for row in search.history.rows() if row.generation == generation]
        free = sum(2 - min(2, count) for count in filled.values())
        beyond = [row for row in rows if row.tokens > 4 * TARGETS]
        assert len(beyond) <= max(free, np.ceil(0.4 * len(rows)))
        for row in rows:
            filled[row.layers] += row.status == "full"


def test_resumed_with_the_same_next_generation(tmp_path: Path, kind: str) -> None:
    whole = search_in(tmp_path / "whole", kind)
    finish(whole)
    killed = search_in(tmp_path / "killed", kind)
    running = generations(killed, np.random.default_rng(7))
    for _ in range(2):
        next(running)
    requests = [*killed.begin_generation(), *killed.advance()]
    for proposal, shard in requests[:5]:
        killed.take({(proposal.subnet.id, shard): score(killed, proposal.subnet.id, shard)})
    resumed = search_in(tmp_path / "killed", kind)
    finish(resumed, seed=3)
    assert rows_of(resumed) == rows_of(whole)


def test_relatives_are_of_the_niche() -> None:
    space = Space("fine-layerwise", NEOX, Order.by_index(NEOX.dimensions), share(NEOX, 0.4, 0.45))
    rng = np.random.default_rng(0)
    subnets = {}
    while len(subnets) < 3:
        subnet = space.sample(rng)
        subnets[subnet.widths.layers] = subnet
    first, second, third = subnets
    losses = {"a": np.zeros(2), "b": np.ones(2)}
    elites = EliteLosses(
        1, {}, losses, {"a": first, "b": second}, lambda subnet: subnet.widths.layers
    )

    def relatives(layers: int, *parents: str) -> list[float]:
        proposal = Proposal(subnets[layers], "mutation", parents)
        return [float(one[0]) for one in elites.relatives(proposal)]

    assert relatives(first) == [0]
    assert relatives(second) == [1]
    assert relatives(first, "b") == [1]  # its parent, from where it has moved
    assert relatives(third) == [0, 1]


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Of every depth; the very best were dropped at a rung."""
    rows = evolve(tmp_path, "fine-layerwise", 40, generations=6).rows()
    assert len({row.layers for row in rows}) > 2
    best = min(rows, key=lambda row: row.fitness)
    return [replace(row, status="screened") if row is best else row for row in rows]


def rows_in(table: pd.DataFrame, rows: list[Row]) -> list[Row]:
    by_name = {row.candidate: row for row in rows}
    return [by_name[name] for name in table["candidate"]]


def test_the_best_of_each_niche(rows: list[Row]) -> None:
    found = rows_in(best_of_niches(frame(rows)), rows)
    full = [row for row in rows if row.status == "full"]
    assert [row.layers for row in found] == sorted({row.layers for row in full})
    for one in found:
        own = [row for row in full if row.layers == one.layers]
        assert one == min(own, key=lambda row: (row.fitness, row.candidate))
    assert best_of_niches(frame([])).empty


def test_niches_take_turns(rows: list[Row]) -> None:
    turns = rows_in(in_turns(frame(rows)), rows)
    assert sorted(row.candidate for row in turns) == sorted(
        row.candidate for row in rows if row.status == "full"
    )
    count = len(best_of_niches(frame(rows)))
    bests = set(best_of_niches(frame(rows))["candidate"])
    assert {row.candidate for row in turns[:count]} == bests
    assert turns[0].fitness == min(row.fitness for row in turns)
    seen: dict[int, list[float]] = {}
    for row in turns:
        seen.setdefault(row.layers, []).append(row.fitness)
    assert all(each == sorted(each) for each in seen.values())
