import numpy as np
import pytest

from evo.errors import UserError
from evo.genome import SPACES
from evo.genome.bins import Bin
from evo.genome.cost import Architecture
from evo.genome.enumeration import enumerate_space
from evo.genome.space import Space
from evo.genome.subnet import Dimensions, Subnet
from evo.genome.width_limits import WidthLimits
from tests.support.architectures import (
    ARCHITECTURES,
    COSTS,
    GROUPED,
    NEOX,
    any_cost,
    full_cost,
    is_member,
    random_order,
    share,
)

BINS = [(0.23, 0.26), (0.5, 0.55), (0.9, 1.0)]


def proposals(space: Space, rng: np.random.Generator, count: int) -> dict[str, list[Subnet]]:
    samples = [space.sample(rng) for _ in range(count)]
    mutants = [space.mutate(one, rng) for one in samples]
    pairs = zip(samples, reversed(mutants), strict=True)
    return {
        "sample": samples,
        "mutation": mutants,
        "crossover": [space.crossover(first, second, rng) for first, second in pairs],
    }


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_proposal_is_in_its_space_and_bin(architecture, name):
    architecture = ARCHITECTURES[architecture]
    order = random_order(architecture.dimensions)
    for low, high in BINS:
        space = Space(name, architecture, order, share(architecture, low, high))
        for subnets in proposals(space, np.random.default_rng(0), 12).values():
            assert all(is_member(space, subnet) for subnet in subnets)


def test_spaces_are_not_each_other():
    """Some proposals of the larger spaces are not in the smaller ones."""
    order, bin = random_order(NEOX.dimensions), share(NEOX, 0.4, 0.45)
    spaces = {name: Space(name, NEOX, order, bin) for name in SPACES}
    for name, smaller in (
        ("fine-layerwise", "fine-uniform"),
        ("fine-layerwise", "coarse-layerwise"),
        ("coarse-layerwise", "coarse-uniform"),
        ("fine-uniform", "coarse-uniform"),
    ):
        for subnets in proposals(spaces[name], np.random.default_rng(1), 10).values():
            assert any(not is_member(spaces[smaller], subnet) for subnet in subnets)
        for subnets in proposals(spaces[smaller], np.random.default_rng(1), 5).values():
            assert all(is_member(spaces[name], subnet) for subnet in subnets)


@pytest.mark.parametrize("name", SPACES)
def test_same_seed_same_proposals(name):
    space = Space(name, GROUPED, random_order(GROUPED.dimensions), share(GROUPED, 0.4, 0.45))
    ids = [
        [one.id for subnets in proposals(space, np.random.default_rng(5), 5).values()
         for one in subnets]
        for _ in range(2)
    ]  # fmt: skip
    assert ids[0] == ids[1]
    assert len(set(ids[0])) > 10


@pytest.mark.parametrize("name", SPACES)
def test_a_bin_of_one_cost(name):
    """A single shape of the many can be in the bin, and no search for it goes on for ever."""
    space = Space(name, NEOX, random_order(NEOX.dimensions), any_cost(NEOX))
    exact = share(NEOX, 0.3, 0.3)
    while enumerated_none(exact):
        exact = Bin("exact", exact.low + 1, exact.low + 1)
    space = Space(name, NEOX, space.order, exact)
    for subnets in proposals(space, np.random.default_rng(0), 3).values():
        assert all(is_member(space, subnet) for subnet in subnets)


def enumerated_none(bin: Bin) -> bool:
    try:
        Space("coarse-uniform", NEOX, random_order(NEOX.dimensions), bin)
    except UserError:
        return True
    return False


@pytest.mark.parametrize("name", SPACES)
def test_the_whole_range_of_costs(name):
    order = random_order(GROUPED.dimensions)
    full = full_cost(GROUPED)
    rng = np.random.default_rng(0)
    teacher = Space(name, GROUPED, order, Bin("teacher", full, full))
    assert teacher.sample(rng).id == Subnet.full(GROUPED.dimensions).id
    smallest = Bin("smallest", 1, 1)
    with pytest.raises(UserError, match="they have from") as caught:
        Space(name, GROUPED, order, smallest)
    least = int(str(caught.value).split("from ")[1].split(" ")[0].replace(",", ""))
    space = Space(name, GROUPED, order, Bin("least", least, least))
    assert space.sample(rng).widths.channels == GROUPED.head_size
    assert space.sample(rng).widths.groups == space.sample(rng).widths.neurons == (1,)


@pytest.mark.parametrize("name", SPACES)
def test_an_enumerated_parent_in_a_space(name):
    """What a listed candidate's dropped layers keep says nothing, and must not be inherited."""
    tiny = Architecture(Dimensions(3, 3, 2, 2), 5, 2, 1, 2, True, True, False, False, 2, 2)
    bin = share(tiny, 0.4, 0.42) if name == "fine-layerwise" else share(tiny, 0.35, 0.7)
    space = Space(name, tiny, random_order(tiny.dimensions), bin)
    listed = enumerate_space(space, 10_000)
    assert listed
    parents = [Subnet.unpack(genome, tiny.dimensions) for genome in listed.values()]
    rng = np.random.default_rng(0)
    for _ in range(60):
        first, second = (parents[index] for index in rng.integers(len(parents), size=2))
        assert is_member(space, space.mutate(first, rng))
        assert is_member(space, space.crossover(first, second, rng))


@pytest.mark.parametrize("name", ["fine-uniform", "fine-layerwise"])
def test_mutants_are_nearer_to_their_parent_than_strangers(name):
    space = Space(name, GROUPED, random_order(GROUPED.dimensions), share(GROUPED, 0.4, 0.45))
    rng = np.random.default_rng(2)
    subnets = proposals(space, rng, 25)

    def distance(one: Subnet, two: Subnet) -> float:
        return (one.channels != two.channels).mean() + (one.neurons != two.neurons).mean()

    pairs = zip(subnets["sample"], subnets["mutation"], strict=True)
    to_child = np.median([distance(one, two) for one, two in pairs])
    strangers = zip(subnets["sample"], reversed(subnets["sample"]), strict=True)
    assert to_child < np.median([distance(one, two) for one, two in strangers]) / 2


@pytest.mark.parametrize("name", SPACES)
def test_mutation_moves_every_dimension_up_and_down(name):
    space = Space(name, NEOX, random_order(NEOX.dimensions), any_cost(NEOX))
    rng = np.random.default_rng(3)
    parent = Subnet(  # in every space of this order: half of everything
        layers=space.order.layers < 2,
        channels=space.order.channels < 16,
        groups=space.order.groups < 2,
        neurons=space.order.neurons < 20,
    )
    assert is_member(space, parent)
    before = parent.widths
    children = [space.mutate(parent, rng).widths for _ in range(150)]
    for width in (
        lambda w: w.layers,
        lambda w: w.channels,
        lambda w: sum(w.groups) / w.layers,
        lambda w: sum(w.neurons) / w.layers,
    ):
        changes = {np.sign(width(child) - width(before)) for child in children}
        assert changes == {-1, 0, 1}


@pytest.mark.parametrize("name", SPACES)
def test_shapes_are_distributed_as_by_rejection(name):
    """Means within 4 standard errors, spreads within 30%, of layers and of widths."""
    order, bin = random_order(NEOX.dimensions), share(NEOX, 0.38, 0.42)

    def shapes(in_bin: str, seed: int) -> np.ndarray:
        space = Space(name, NEOX, order, bin, in_bin)  # type: ignore[arg-type]
        rng = np.random.default_rng(seed)
        widths = [space.sample(rng).widths for _ in range(120)]
        return np.array(
            [(w.layers, w.channels, np.mean(w.groups), np.mean(w.neurons)) for w in widths]
        )

    fitted, rejected = shapes("fit", 0), shapes("reject", 1)
    error = np.sqrt((fitted.var(0) + rejected.var(0)) / 120)
    assert (np.abs(fitted.mean(0) - rejected.mean(0)) < 4 * error).all()
    assert (np.abs(np.log(fitted.std(0) / rejected.std(0))) < np.log(1.3)).all()


@pytest.mark.parametrize("name", SPACES)
def test_reject_draws_again(name):
    space = Space(
        name, NEOX, random_order(NEOX.dimensions), share(NEOX, 0.4, 0.45), in_bin="reject"
    )
    for subnets in proposals(space, np.random.default_rng(0), 5).values():
        assert all(is_member(space, subnet) for subnet in subnets)


@pytest.mark.parametrize("in_bin", ["fit", "reject"])
@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: cost.kind)
def test_every_cost_and_limits(cost, name, in_bin):
    limits = WidthLimits.parse(["channels=4", "neurons=8"], ["layers=2", "channels=10"])
    bin = share(NEOX, 0.3, 0.45, cost)
    space = Space(name, NEOX, random_order(NEOX.dimensions), bin, in_bin, limits)
    for subnets in proposals(space, np.random.default_rng(0), 8).values():
        assert all(is_member(space, subnet) for subnet in subnets)
        assert len({subnet.id for subnet in subnets}) > 3


def test_a_bin_that_rejection_misses(monkeypatch):
    """The message says what share of proposals was in it."""
    monkeypatch.setattr("evo.genome.space.REJECTIONS", 100)
    space = Space("coarse-uniform", NEOX, random_order(NEOX.dimensions),
                  share(NEOX, 0.38, 0.42), "reject")  # fmt: skip
    rng = np.random.default_rng(0)
    landed: list[Subnet] = []
    with pytest.raises(UserError, match="100 proposals in a row missed") as caught:
        landed.extend(iter(lambda: space.sample(rng), None))
    message = str(caught.value)
    assert landed
    assert f"after {len(landed):,} of " in message
    drawn = int(message.split(" in all")[0].split(" of ")[-1].replace(",", ""))
    assert drawn >= len(landed) + 100
    assert f"({len(landed) / drawn:.2g} of them)" in message
    assert message.endswith("use --in-bin fit, or a wider bin")


def test_unknown_space():
    with pytest.raises(UserError, match="unknown space 'coarse': the spaces are coarse-uniform, "):
        Space("coarse", NEOX, random_order(NEOX.dimensions), any_cost(NEOX))


@pytest.mark.parametrize("name", SPACES)
def test_depths_are_those_that_samples_have(name):
    for low, high, multiple_of in [(0.1, 0.12, []), (0.4, 0.45, []), (0.85, 0.9, ["layers=2"])]:
        space = Space(
            name, NEOX, random_order(NEOX.dimensions), share(NEOX, low, high),
            limits=WidthLimits.parse(multiple_of, []),
        )  # fmt: skip
        rng = np.random.default_rng(0)
        assert space.depths == {int(space.sample(rng).layers.sum()) for _ in range(400)}
