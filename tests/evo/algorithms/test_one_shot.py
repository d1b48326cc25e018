import numpy as np
import pytest

from evo.algorithms.one_shot import OneShot, proportional
from evo.algorithms.settings import Budget
from evo.genome import SPACES
from evo.genome.head_size_space import HeadSizeSpace
from evo.genome.space import Space
from evo.genome.width_limits import WidthLimits
from tests.evo.algorithms.test_base import scored
from tests.support.architectures import ARCHITECTURES, NEOX, random_order, share

LAYER_WISE_ORDER = random_order(NEOX.dimensions)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_one_candidate_of_the_teachers_proportions(name, architecture):
    full = architecture.dimensions
    space = Space(name, architecture, random_order(full), share(architecture, 0.2, 0.3))
    strategy = OneShot(space, Budget(5, 3), 0)
    (proposal,) = strategy.ask()
    assert proposal.operator == "one-shot"
    widths = proposal.subnet.widths
    shares = {
        "layers": widths.layers / full.layers,
        "channels": widths.channels / full.channels,
        "neurons": proposal.subnet.kept_neurons.max() / full.neurons,
        "groups": proposal.subnet.kept_groups.max() / full.groups,
    }
    # A dimension of three can be no nearer to its share than a third.
    for dimension, found in shares.items():
        assert found == pytest.approx(shares["channels"], abs=1 / getattr(full, dimension))
    strategy.tell(scored([proposal]))
    assert strategy.ended == "space exhausted"
    assert strategy.ask() == []


@pytest.mark.parametrize("name", SPACES)
def test_it_keeps_the_first_of_the_order(name):
    space = Space(name, NEOX, LAYER_WISE_ORDER, share(NEOX, 0.2, 0.3))
    subnet = OneShot(space, Budget(1, 1), 0).ask()[0].subnet
    order = LAYER_WISE_ORDER
    assert subnet.channels[order.channels < subnet.widths.channels].all()
    assert subnet.layers[order.layers < subnet.widths.layers].all()
    for layer in np.flatnonzero(subnet.layers):
        for mask, ranks in ((subnet.groups, order.groups), (subnet.neurons, order.neurons)):
            assert mask[layer][ranks[layer] < mask[layer].sum()].all()


def test_seeds_and_spaces_agree_where_the_plan_is_in_the_bin():
    plans = set()
    for name in SPACES:
        for seed in (0, 1):
            space = Space(name, NEOX, LAYER_WISE_ORDER, share(NEOX, 0.2, 0.3))
            plans.add(OneShot(space, Budget(1, 1), seed).ask()[0].subnet.id)
    assert len(plans) == 1


def test_limits_and_head_sizes_hold():
    limits = WidthLimits.parse(["channels=8", "neurons=8"], ["layers=3"])
    bin = share(NEOX, 0.3, 0.5)
    plan = proportional(Space("coarse-uniform", NEOX, LAYER_WISE_ORDER, bin, limits=limits))
    assert plan.layers >= 3
    assert plan.channels % 8 == plan.neurons[0] % 8 == 0
    space = HeadSizeSpace(
        "coarse-uniform", NEOX, LAYER_WISE_ORDER, bin, limits=limits, head_sizes=[2, 4]
    )
    subnet = OneShot(space, Budget(1, 1), 0).ask()[0].subnet
    assert subnet.head_size == 4
    assert space.bin.cost.of(NEOX, subnet.widths) in bin
