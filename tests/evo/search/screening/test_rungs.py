import math
from itertools import pairwise

import numpy as np
import pytest

from evo.errors import UserError
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.rungs import estimates, survivors
from evo.search.screening.stages import Stages, spread


@pytest.mark.parametrize(
    ("texts", "shares"),
    [(["full"], ()), (["1/32", "1/8"], (1 / 32, 1 / 8)), (["3%", "0.25"], (0.03, 0.25))],
)
def test_parse(texts, shares):
    assert Rungs.parse(texts, 0.25, 0.9).shares == pytest.approx(shares)


@pytest.mark.parametrize(
    "texts", [["1/8", "1/32"], ["1"], ["0"], ["a"], ["1/0"], ["full", "1/8"], ["-1/8"], ["1/8"] * 2]
)
def test_what_is_no_rung_is_refused(texts):
    with pytest.raises(UserError, match="1/32 1/8"):
        Rungs.parse(texts, 0.25, 0.9)


@pytest.mark.parametrize("values", [{"survivors": 0}, {"survivors": 1.1}, {"confidence": 0.4}])
def test_values_that_make_no_sense_are_refused(values):
    with pytest.raises(UserError, match="give"):
        Rungs((0.1,), **values)


@pytest.mark.parametrize("sequences", [1, 3, 7, 8, 9, 100, 1000])
@pytest.mark.parametrize("rows_per_shard", [1, 4, 64, 5000])
@pytest.mark.parametrize("shares", [(), (1 / 32, 1 / 8), (0.5,), (0.9,)])
def test_stages_are_whole_shards(sequences, rows_per_shard, shares):
    stages = Stages.of(Rungs(shares), sequences, rows_per_shard)
    rows = [row for start, stop in stages.shards for row in range(start, stop)]
    assert rows == list(range(sequences))
    assert max(stop - start for start, stop in stages.shards) <= rows_per_shard
    assert stages.ends[-1] == len(stages.shards)
    sizes = [stages.shards[end - 1][1] for end in stages.ends]
    assert tuple(sizes) == stages.sizes
    assert all(2 <= one <= other / 2 for one, other in pairwise(sizes))
    if sequences == 1000:
        wanted = [math.ceil(share * 1000) for share in shares if share <= 0.5]
        assert sizes[:-1] == wanted


@pytest.mark.parametrize("sequences", [1, 9, 16, 100])
@pytest.mark.parametrize("rows_per_shard", [1, 3, 64])
@pytest.mark.parametrize("shares", [(), (1 / 32, 1 / 8), (0.3,)])
def test_turned_stages_hold_the_same_text_from_another_place_on(sequences, rows_per_shard, shares):
    stages = Stages.of(Rungs(shares), sequences, rows_per_shard)
    begins = set()
    for generation in range(sequences + 1):
        turned = stages.rotated(generation)
        rows = turned.sequences(len(turned.shards))
        assert sorted(rows) == list(range(sequences))
        assert list(rows) == list(np.roll(np.arange(sequences), -rows[0]))
        assert max(stop - start for start, stop in turned.shards) <= rows_per_shard
        assert [len(turned.sequences(end)) for end in turned.ends] == list(stages.sizes)
        begins.add(int(rows[0]))
    if len(stages.sizes) == 1:
        assert begins == {0}
    else:
        assert len(begins) >= sequences // stages.sizes[0]
        assert stages.rotated(1).begin == stages.sizes[0]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 64, 100])
def test_every_beginning_of_the_spread_order_is_evenly_spread(count):
    order = spread(count)
    assert sorted(order) == list(range(count))
    for taken in range(2, count + 1):
        gaps = np.diff([-1, *sorted(order[:taken]), count])
        assert gaps.max() <= 4 * count / taken


def paired(rng: np.random.Generator, means: list[float], noise: float) -> dict[str, np.ndarray]:
    common = rng.normal(0, 1, 50)  # sequences differ, for all candidates alike
    return {
        f"{index:02}": mean + common + noise * rng.normal(0, 1, 50)
        for index, mean in enumerate(means)
    }


def test_the_share_bounds_how_many_go_on():
    losses = paired(np.random.default_rng(0), [4.0 + 0.001 * index for index in range(20)], 1e-6)
    rungs = Rungs((0.1,), survivors=0.25, confidence=1)
    elites = {str(index): 9.0 for index in range(10)}
    assert survivors(rungs, losses, elites, 10) == {"00", "01", "02", "03", "04"}


def test_as_many_as_elites_are_missing_may_go_on():
    losses = paired(np.random.default_rng(0), [4.0 + 0.001 * index for index in range(20)], 1e-6)
    rungs = Rungs((0.1,), survivors=0.05, confidence=1)
    assert len(survivors(rungs, losses, {}, 10)) == 10
    assert len(survivors(rungs, losses, {"elite": 9.0}, 4)) == 3
    assert len(survivors(rungs, losses, {"elite": 9.0}, 1)) == 1


def test_only_those_who_are_clearly_worse_than_the_cutoff_leave():
    """At 90% confidence, of candidates as good as the cut-off one in ten leaves."""
    rng = np.random.default_rng(1)
    rungs = Rungs((0.1,), survivors=1, confidence=0.9)
    left = 0
    for _ in range(400):
        losses = paired(rng, [4.0, 4.0, 5.0], 0.1)
        elite = losses.pop("00")
        shifted = {name: estimates(one, np.arange(50), [elite]) for name, one in losses.items()}
        kept = survivors(rungs, shifted, {"00": elite.mean()}, 1)
        assert "02" not in kept
        left += "01" not in kept
    assert 0.05 < left / 400 < 0.13


def test_an_unpaired_test_would_see_no_difference():
    losses = paired(np.random.default_rng(2), [4.0, 4.1], 0.05)
    seen, elites = np.arange(20), {"00": losses["00"].mean()}
    shifted = estimates(losses["01"][seen], seen, [losses["00"]])
    assert survivors(Rungs((0.1,), survivors=1), {"01": shifted}, elites, 1) == set()
    plain = {"01": losses["01"][seen]}
    assert survivors(Rungs((0.1,), survivors=1), plain, elites, 1) == {"01"}


def test_an_estimate_is_as_good_as_candidate_and_relatives_are_alike():
    """Variance of a control variate: of the differences to the parents, not of the losses."""
    rng = np.random.default_rng(5)
    sequences, noise = rng.normal(4, 1, 200), 0.1
    errors = []
    for _ in range(500):
        family = rng.normal(0, 0.5, 200)  # what parents and child share
        parents = [sequences + family + noise * rng.normal(0, 1, 200) for _ in range(2)]
        child = sequences + family + 0.3 + noise * rng.normal(0, 1, 200)
        seen = rng.choice(200, 4, replace=False)
        errors.append(estimates(child[seen], seen, parents).mean() - child.mean())
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) == pytest.approx(noise * math.sqrt(1.5 / 4), rel=0.15)


def test_a_parent_tells_its_own_mean_from_any_sequence():
    parent = np.random.default_rng(6).random(9)
    seen = np.array([7, 2])
    assert estimates(parent[seen], seen, [parent]) == pytest.approx(parent.mean())
    assert np.array_equal(estimates(parent[seen], seen, []), parent[seen])


def test_the_last_place_is_the_cutoff():
    losses = paired(np.random.default_rng(3), [4.0, 4.1, 4.2, 4.3], 1e-6)
    relative = losses["01"]
    losses = {name: estimates(one, np.arange(50), [relative]) for name, one in losses.items()}
    elites = {"elite": relative.mean() + 0.05}
    rungs = Rungs((0.1,), survivors=1)
    assert survivors(rungs, losses, elites, 3) == {"00", "01"}
    assert survivors(rungs, losses, elites, 4) == {"00", "01", "02"}
    assert survivors(rungs, losses, elites, 10) == set(losses)


def test_without_places_left_the_best_go_on():
    losses = paired(np.random.default_rng(4), [4.0, 4.1], 1e-6)
    assert survivors(Rungs((0.1,), survivors=0.5), losses, {}, 1) == {"00"}


def test_of_few_sequences_the_share_alone_decides():
    losses = {name: one[:3] for name, one in paired(np.random.default_rng(5), [4, 9], 0.1).items()}
    assert survivors(Rungs((0.1,), survivors=1), losses, {}, 1) == {"00", "01"}


def test_niches_are_not_compared_with_each_other():
    """The deep ones lose more than the shallow elites, but less than the elite of their own."""
    losses = paired(np.random.default_rng(6), [5.0, 5.2, 4.5, 4.6], 0.001)
    elites, niches = {"shallow": 4.4, "deep": 5.1}, dict(zip(losses, (8, 8, 2, 2), strict=True))
    common = losses["00"] - 5.0
    shifted = {name: values - common for name, values in losses.items()}
    rungs = Rungs((0.1,), survivors=1)
    niches |= {"shallow": 2, "deep": 8}
    assert survivors(rungs, shifted, elites, 1, niches) == {"00"}
    assert survivors(rungs, shifted, elites, 2) == {"02"}


def test_niches_fill_up_first_then_take_turns_by_what_they_gain():
    means = {"a1": 3.9, "a2": 3.91, "b1": 4.7, "b2": 4.71, "c1": 9.0, "c2": 9.1}
    losses = {name: np.full(3, mean) for name, mean in means.items()}
    elites = {"a": 4.0, "b": 5.0}
    niches = {name: "abc".index(name[0]) for name in [*losses, *elites]}

    def going(share: float) -> set[str]:
        return survivors(Rungs((0.1,), survivors=share), losses, elites, 1, niches)

    assert going(1 / 6) == {"c1"}  # a niche without an elite
    assert going(2 / 6) == {"c1", "b1"}  # by how much it betters its niche
    assert going(3 / 6) == {"c1", "b1", "a1"}  # before the second of any niche
    assert going(4 / 6) == {"c1", "b1", "a1", "b2"}
    assert going(1) == set(losses)


def test_one_niche_is_as_none():
    rng = np.random.default_rng(7)
    for _ in range(50):
        losses = paired(rng, list(rng.normal(4, 0.3, 12)), 0.2)
        elites = {f"elite {index}": value for index, value in enumerate(rng.normal(4, 0.3, 5))}
        rungs = Rungs((0.1,), survivors=rng.uniform(0.1, 1), confidence=0.9)
        places = int(rng.integers(5, 9))
        of_one = dict.fromkeys([*losses, *elites], 3)
        whole = survivors(rungs, losses, elites, places)
        assert survivors(rungs, losses, elites, places, of_one) == whole
