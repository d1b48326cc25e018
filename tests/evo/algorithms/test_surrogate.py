"""What the model expects, what it chooses, and what a search gains by it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from scipy.stats import spearmanr

from evo.algorithms.base import Observation, Proposal, Scored
from evo.algorithms.evolution import Evolution
from evo.algorithms.map_elites import MapElites
from evo.algorithms.settings import Budget, Rates
from evo.algorithms.surrogate import MOST, Features, FirstInOrder, Surrogate, expected_losses
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from tests.evo.algorithms.test_evolution import Planted
from tests.support.architectures import GROUPED, random_order, share
from tests.support.restored import restore


def space_of(name: str) -> Space:
    return Space(name, GROUPED, random_order(GROUPED.dimensions), share(GROUPED, 0.4, 0.44))


def loss_of(subnet: Subnet, planted: Planted = Planted(0)) -> float:  # noqa: B008
    return 3 + planted(subnet)


def layers_of(subnet: Subnet) -> int:
    return int(subnet.layers.sum())


def observed(space: Space, count: int, seed: int = 0, variance: float = 0.0) -> list[Observation]:
    rng = np.random.default_rng(seed)
    subnets = [space.sample(rng) for _ in range(count)]
    noise = rng.normal(0, variance**0.5, count)
    return [
        Observation(subnet, loss_of(subnet) + error, variance)
        for subnet, error in zip(subnets, noise, strict=True)
    ]


def proposals(space: Space, count: int, seed: int = 1) -> list[Proposal]:
    rng = np.random.default_rng(seed)
    drawn = (space.sample(rng) for _ in range(4 * count))
    return [Proposal(one, "sample") for one in {one.id: one for one in drawn}.values()][:count]


@pytest.mark.parametrize("name", ["coarse-uniform", "coarse-layerwise"])
def test_it_ranks_shapes_that_it_has_not_seen(name: str) -> None:
    space = space_of(name)
    new = [one.subnet for one in proposals(space, 60)]
    expected = expected_losses(Features(space), observed(space, 80), new)
    assert spearmanr(expected, [loss_of(subnet) for subnet in new]).statistic > 0.85


def test_what_was_scored_on_little_text_counts_for_less() -> None:
    space = space_of("coarse-layerwise")
    known = observed(space, 40)
    middle = known[20]
    wrong = [Observation(middle.subnet, middle.loss + 0.2, variance) for variance in (0.0, 1.0)]
    exact, trusting, doubting = (
        expected_losses(Features(space), each, [middle.subnet])[0]
        for each in (known, *([*known[:20], one, *known[21:]] for one in wrong))
    )
    assert trusting > exact + 0.5 * (doubting - exact)
    assert abs(doubting - exact) < 0.3 * abs(trusting - exact)


def test_an_estimate_below_nothing_is_a_small_loss() -> None:
    space = space_of("coarse-layerwise")
    known = [
        Observation(one.subnet, 0.01 * (number - 3), 0.0)
        for number, one in enumerate(observed(space, 30))
    ]
    expected = expected_losses(Features(space), known, [one.subnet for one in proposals(space, 9)])
    assert np.isfinite(expected).all()
    nothing = [Observation(one.subnet, 0.0, 0.0) for one in known]
    assert np.isfinite(expected_losses(Features(space), nothing, [known[0].subnet])).all()


def test_what_all_observations_have_in_common_does_not_decide() -> None:
    """Also where the mean of equal numbers is not that number to the last bit."""
    space = space_of("coarse-layerwise")
    known = observed(space, 30)
    alike = [Observation(replace(one.subnet, head_size=3), one.loss, one.variance) for one in known]
    new = [one.subnet for one in proposals(space, 20)]
    others = [replace(subnet, head_size=3) for subnet in new]
    smaller = expected_losses(Features(space), alike, [replace(new[0], head_size=2), *others])
    assert np.ptp(smaller) < 10
    assert smaller[1:] == pytest.approx(expected_losses(Features(space), alike, others))


def test_how_much_is_first_in_the_order_against_sums() -> None:
    rng = np.random.default_rng(0)
    ranks = np.stack([rng.permutation(10) for _ in range(4)])
    masks = rng.random((4, 10)) < 0.5
    masks[0] = ranks[0] < 3
    masks[1] = False
    shares = FirstInOrder(ranks).share(masks)
    for mask, rank, found in zip(masks, ranks, shares, strict=True):
        worth = sum(1 - r / 10 for r, kept in zip(rank, mask, strict=True) if kept)
        best = sum(1 - r / 10 for r in range(int(mask.sum())))
        assert found == pytest.approx(worth / best if best else 0.0)
    assert shares[0] == 1
    assert 0 < shares[2] < 1


def test_every_niche_has_its_turn() -> None:
    space = space_of("coarse-uniform")
    chosen = Surrogate(space, layers_of).choose(proposals(space, 200), 12, observed(space, 50))
    assert len({one.subnet.id for one in chosen}) == 12
    depths = [layers_of(one.subnet) for one in chosen]
    in_all = len({layers_of(one.subnet) for one in proposals(space, 200)})
    assert len(set(depths[:in_all])) == in_all > 1
    alone = Surrogate(space, lambda _: 0).choose(proposals(space, 200), 12, observed(space, 50))
    best = np.mean([loss_of(one.subnet) for one in alone])
    assert best < np.mean([loss_of(one.subnet) for one in proposals(space, 200)])


def test_half_of_a_fine_spaces_generation_may_keep_the_same_layers() -> None:
    space = space_of("fine-layerwise")
    chosen = Surrogate(space, lambda _: 0).choose(proposals(space, 300), 20, observed(space, 50))
    kept = sorted(one.subnet.layers.tobytes() for one in chosen)
    assert max(len(list(same)) for _, same in groupby(kept)) <= 10


def test_what_is_dropped_along_the_way_is_what_is_dropped_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert MOST > 100
    monkeypatch.setattr("evo.algorithms.surrogate.MOST", 20)
    space = space_of("coarse-layerwise")
    surrogate, everything = Surrogate(space, layers_of), observed(space, 90)
    kept: list[Observation] = []
    for start in range(0, 90, 15):
        kept = surrogate.relevant([*kept, *everything[start : start + 15]])
    assert kept == surrogate.relevant(everything)
    assert len(kept) == 20


def scored(asked: list[Proposal]) -> list[Scored]:
    return [
        Scored(one.subnet, loss, Observation(one.subnet, loss, 0.0))
        for one in asked
        for loss in [loss_of(one.subnet)]
    ]


def searching(
    name: str, proposals: int, seed: int, generations: int = 5, kind: type[Evolution] = Evolution
) -> Evolution:
    rates = Rates(elites=5, proposals=proposals)
    space = space_of(name)
    search = kind(space, Budget(10, generations), seed, rates)
    if proposals > 1:
        search.chooser = Surrogate(space, search.niche)
    return search


@pytest.mark.parametrize("name", ["coarse-layerwise", "fine-layerwise"])
def test_a_search_finds_more_with_as_many_scores(name: str) -> None:
    gains = []
    for seed in range(3):
        bests = []
        for count in (1, 16):
            search = searching(name, count, seed)
            while asked := search.ask():
                assert len(asked) == 10
                search.tell(scored(asked))
            assert search.best is not None
            assert search.best.fitness is not None
            bests.append(search.best.fitness)
        gains.append(bests[0] - bests[1])
    assert min(gains) > 0
    assert np.mean(gains) > 0.005


@pytest.mark.parametrize("kind", [Evolution, MapElites])
def test_restored_it_chooses_the_same(kind: type[Evolution]) -> None:
    whole = searching("coarse-layerwise", 8, 0, kind=kind)
    told: list[Scored] = []
    for _ in range(3):
        told += scored(whole.ask())
        whole.tell(told[-10:])
    restored = searching("coarse-layerwise", 8, 0, kind=kind)
    state = json.loads(json.dumps(whole.state()))
    restore(restored, state, told)
    assert [one.subnet.id for one in restored.ask()] == [one.subnet.id for one in whole.ask()]


def test_a_generation_that_was_asked_for_is_taken_up() -> None:
    whole, other = searching("coarse-layerwise", 8, 0), searching("coarse-layerwise", 8, 1)
    asked = whole.ask()
    other.repeat(asked, whole.state()["rng"])
    for search in (whole, other):
        search.tell(scored(asked))
    assert [one.subnet.id for one in other.ask()] == [one.subnet.id for one in whole.ask()]


def test_nothing_is_chosen_before_anything_is_known() -> None:
    search = searching("coarse-layerwise", 8, 0)
    search.tell([Scored(one.subnet, None) for one in search.ask()])
    assert {one.operator for one in search.ask()} == {"sample"}


def test_of_a_small_space_everything_is_asked_for_once() -> None:
    space = Space(
        "coarse-uniform", GROUPED, random_order(GROUPED.dimensions), share(GROUPED, 0.8, 0.83)
    )
    search = Evolution(space, Budget(10, 1000), 0, Rates(elites=5, proposals=8))
    search.chooser = Surrogate(space, search.niche)
    seen: set[str] = set()
    while asked := search.ask():
        ids = {one.subnet.id for one in asked}
        assert len(ids) == len(asked)
        assert not ids & seen
        seen |= ids
        search.tell(scored(asked))
    assert search.ended == "space exhausted"
    assert len(seen) > 10
