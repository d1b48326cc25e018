"""Another run's population in this one's spaces and bins."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from evo.algorithms.evolution import Evolution
from evo.algorithms.settings import Budget
from evo.errors import UserError
from evo.genome import SPACES
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.search.history.history import History
from evo.search.warm_start import FILE, Taken, alike, brought_into, digest, load, save, starts, take
from tests.evo.algorithms.test_base import run, scored
from tests.support.architectures import GROUPED, is_member, random_order, share
from tests.support.histories import ARCHITECTURE, DIMENSIONS, evolve
from tests.support.restored import restore

TEACHER = "0123456789abcdef"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two searches in two bins; every third candidate of one of them has failed."""
    path = tmp_path_factory.mktemp("runs") / "other"
    evolve(path / "searches" / "coarse-uniform@30%", "coarse-uniform", 30)
    evolve(path / "searches" / "fine-layerwise@60%", "fine-layerwise", 60, failing="NaN")
    settings = {"teacher": "somewhere", "teacher_hash": TEACHER}
    (path / "settings.yaml").write_text(yaml.safe_dump(settings))
    return path


def test_the_best_of_every_search_are_taken(other: Path) -> None:
    taken = take(other, TEACHER, 5)
    for name in ("coarse-uniform@30%", "fine-layerwise@60%"):
        rows = [row for row in History(other / "searches" / name).rows() if row.status == "full"]
        best = sorted(row.fitness for row in rows)[:5]
        own = [one for one in taken if one.search == name]
        assert [one.fitness for one in own] == best
        genomes = {row.candidate: row.genome for row in rows}
        assert all(genomes[one.candidate] == one.genome for one in own)
    assert len(taken) == 10


def test_what_cannot_be_taken_is_said(other: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="searched another teacher"):
        take(other, "f" * 16, 5)
    with pytest.raises(UserError, match="is no run"):
        take(tmp_path, TEACHER, 5)
    shutil.copy(other / "settings.yaml", tmp_path / "settings.yaml")
    with pytest.raises(UserError, match="no candidate that is scored in full"):
        take(tmp_path, TEACHER, 5)


def test_what_was_taken_stays(other: Path, tmp_path: Path) -> None:
    taken = take(other, TEACHER, 5)
    save(taken, tmp_path / FILE)
    assert load(tmp_path / FILE) == taken
    assert digest(load(tmp_path / FILE)) == digest(taken)
    assert len({digest(taken), digest(taken[1:]), digest(taken[::-1]), digest([])}) == 4
    (tmp_path / FILE).write_bytes(b"torn")
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path / FILE)


@pytest.mark.parametrize("name", SPACES)
def test_subnets_of_all_spaces_and_bins_are_brought_into_one(name: str) -> None:
    rng = np.random.default_rng(0)
    theirs, ours = random_order(GROUPED.dimensions, 1), random_order(GROUPED.dimensions, 2)
    space = Space(name, GROUPED, ours, share(GROUPED, 0.4, 0.42))
    for other in SPACES:
        for low, high in ((0.25, 0.3), (0.7, 0.8)):
            source = Space(other, GROUPED, theirs, share(GROUPED, low, high))
            for _ in range(5):
                assert is_member(space, brought_into(source.sample(rng), space, rng))


@pytest.mark.parametrize("name", SPACES)
def test_what_is_in_the_space_and_bin_stays_as_it_is(name: str) -> None:
    rng = np.random.default_rng(0)
    space = Space(name, GROUPED, random_order(GROUPED.dimensions), share(GROUPED, 0.5, 0.55))
    for _ in range(10):
        subnet = space.sample(rng)
        assert brought_into(subnet, space, rng).id == subnet.id


def test_layers_become_alike_by_mean_and_majority() -> None:
    rng, order = np.random.default_rng(3), random_order(GROUPED.dimensions)
    space = Space("fine-layerwise", GROUPED, order, share(GROUPED, 0.4, 0.6))
    for _ in range(10):
        subnet = space.sample(rng)
        result = alike(subnet, order)
        kept = np.flatnonzero(subnet.layers)
        assert (result.channels == subnet.channels).all()
        assert (result.layers == subnet.layers).all()
        for masks, ranks, new in (
            (subnet.groups, order.groups, result.groups),
            (subnet.neurons, order.neurons, result.neurons),
        ):
            votes = {
                rank: sum(bool(masks[i][ranks[i] == rank][0]) for i in kept)
                for rank in range(masks.shape[1])
            }
            count = max(1, round(sum(int(masks[i].sum()) for i in kept) / len(kept)))
            majority = sorted(votes, key=lambda rank: (-votes[rank], rank))[:count]
            for i in range(len(masks)):
                assert sorted(ranks[i][new[i]].tolist()) == sorted(majority)


def space_of(name: str, low: float, high: float) -> Space:
    return Space(name, ARCHITECTURE, Order.by_index(DIMENSIONS), share(ARCHITECTURE, low, high))


def test_the_nearest_search_begins_and_all_take_turns(other: Path) -> None:
    taken = take(other, TEACHER, 5)
    rng = np.random.default_rng(0)
    for low, high, nearest in (
        (0.28, 0.32, "coarse-uniform@30%"),
        (0.55, 0.65, "fine-layerwise@60%"),
    ):
        space = space_of("fine-layerwise", low, high)
        found = starts(taken, space, 8, rng)
        assert len(found) == 4
        assert len({one.subnet.id for one in found}) == 4
        assert all(one.operator == "start" and is_member(space, one.subnet) for one in found)
        best = next(one for one in taken if one.search == nearest)
        assert found[0].subnet.id == best.candidate  # it is in this bin, and in this space
    assert len(starts(taken, space, 7, rng)) == math.ceil(3.5)
    assert len(starts(taken[:2], space, 20, rng)) == 2


def test_the_first_generation_begins_with_them(other: Path) -> None:
    taken = take(other, TEACHER, 5)

    def strategy() -> Evolution:
        space = space_of("coarse-layerwise", 0.4, 0.45)
        made = Evolution(space, Budget(8, 2), 0)
        made.starts = starts(taken, space, 8, np.random.default_rng(1))
        return made

    first = strategy()
    generations = run(first)
    assert [one.operator for one in generations[0]] == ["start"] * 4 + ["sample"] * 4
    assert not [one for one in (*generations[1], *generations[2]) if one.operator == "start"]
    ids = [one.subnet.id for generation in generations for one in generation]
    assert len(set(ids)) == len(ids) == 24

    again = strategy()
    assert [one.subnet.id for one in again.ask()] == ids[:8]
    resumed = strategy()
    before = strategy()
    results = scored(before.ask())
    before.tell(results)
    restore(resumed, before.state(), results)
    assert [one.subnet.id for one in resumed.ask()] == ids[8:16]


def test_genomes_of_another_size_are_no_start() -> None:
    taken = [Taken("coarse-uniform@30%", "0" * 16, 1.0, Subnet.full(GROUPED.dimensions).pack())]
    with pytest.raises(ValueError, match="no genome"):
        starts(taken, space_of("coarse-uniform", 0.4, 0.45), 8, np.random.default_rng(0))
