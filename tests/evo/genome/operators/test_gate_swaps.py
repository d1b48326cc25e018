import numpy as np
import pytest

from evo.genome.operators.gate_swaps import GateGradients, swapped_by_gates, swapped_row
from evo.genome.space import Space
from evo.genome.width_limits import WidthLimits
from tests.support.architectures import (
    ARCHITECTURES,
    GROUPED,
    is_member,
    random_order,
    share,
)


def space_of(name, architecture=GROUPED, **how):
    return Space(
        name, architecture, random_order(architecture.dimensions), share(architecture, 0.4, 0.44),
        **how,
    )  # fmt: skip


def random_gradients(dimensions, seed=0):
    rng, d = np.random.default_rng(seed), dimensions
    return GateGradients(
        rng.standard_normal(d.channels),
        rng.standard_normal((d.layers, d.groups)),
        rng.standard_normal((d.layers, d.neurons)),
    )


def test_a_row_swaps_the_worst_kept_for_the_best_dropped():
    kept = np.array([1, 1, 1, 0, 0, 0], bool)
    gradient = np.array([-5.0, 3.0, 1.0, -2.0, 0.0, 4.0])
    found = {
        tuple(np.flatnonzero(swapped_row(kept, gradient, share, np.random.default_rng(seed))))
        for share in (0.01, 1.0)
        for seed in range(60)
    }
    assert (0, 2, 3) in found  # the worst for the best
    assert (0, 3, 4) in found  # then the next pair
    assert all(0 in one for one in found)  # the best kept has none that is better
    assert all(5 not in one for one in found)  # the worst dropped is better than none
    assert all(len(one) == 3 for one in found)


def test_where_no_swap_promises_anything_the_row_stays():
    kept = np.array([1, 0, 1, 0], bool)
    rng = np.random.default_rng(0)
    assert np.array_equal(swapped_row(kept, np.where(kept, -1.0, 1.0), 1.0, rng), kept)
    assert np.array_equal(swapped_row(kept, np.zeros(4), 1.0, rng), kept)
    everything = np.ones(4, bool)
    assert swapped_row(everything, np.arange(4.0), 1.0, rng).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("name", ["fine-uniform", "fine-layerwise"])
def test_swaps_stay_in_the_space_and_keep_the_shape(name, architecture):
    space, rng = space_of(name, architecture), np.random.default_rng(0)
    full, gradients = architecture.dimensions, random_gradients(architecture.dimensions)
    moved = dict.fromkeys(("channels", "groups", "neurons"), 0)
    for _ in range(40):
        parent = space.sample(rng)
        child = swapped_by_gates(space, parent, gradients, rng)
        assert is_member(space, child)
        assert np.array_equal(child.layers, parent.layers)
        assert child.widths.channels == parent.widths.channels
        for kind in ("groups", "neurons"):
            assert sum(getattr(child.widths, kind)) == sum(getattr(parent.widths, kind))
        for kind in moved:
            before, after = getattr(parent, kind), getattr(child, kind)
            gradient = getattr(gradients, kind)
            if kind != "channels":
                kept = parent.layers
                before, after, gradient = before[kept], after[kept], gradient[kept]
            moved[kind] += int((before != after).sum())
            # To first order the loss falls.
            assert (gradient * (after.astype(float) - before)).sum() <= 1e-9
    assert min(moved.values()) > 0 or full.groups == 1


def test_uniform_spaces_sum_what_a_rank_does_to_all_kept_layers():
    space, rng = space_of("fine-uniform"), np.random.default_rng(1)
    parent, d = space.sample(rng), GROUPED.dimensions
    by_rank = np.argsort(space.order.neurons, axis=1)
    first = int(parent.layers.argmax())
    kept = parent.neurons[first][by_rank[first]]
    best, worst = int(np.flatnonzero(~kept)[0]), int(np.flatnonzero(kept)[-1])
    neurons = np.zeros((d.layers, d.neurons))
    for layer in range(d.layers):  # in dropped layers the opposite, which does not count
        sign = 1 if parent.layers[layer] else -9
        neurons[layer, by_rank[layer, best]], neurons[layer, by_rank[layer, worst]] = -sign, sign
    gradients = GateGradients(np.zeros(d.channels), np.zeros((d.layers, d.groups)), neurons)
    children = [swapped_by_gates(space, parent, gradients, rng) for _ in range(30)]
    changed = [child for child in children if child.id != parent.id]
    found = set()
    for child in changed:
        for layer in np.flatnonzero(child.layers):
            row = child.neurons[layer][by_rank[layer]]
            found.add((bool(row[best]), bool(row[worst])))
    assert (True, False) in found
    assert (False, True) not in found


def test_layers_trade_widths_only_where_these_are_free():
    widths = {}
    for limits in (WidthLimits.parse([], []), WidthLimits.parse(["neurons=4"], [])):
        space, rng = space_of("fine-layerwise", limits=limits), np.random.default_rng(0)
        parent = space.sample(rng)
        gradients = random_gradients(GROUPED.dimensions)
        children = [swapped_by_gates(space, parent, gradients, rng) for _ in range(40)]
        assert all(is_member(space, child) for child in children)
        widths[limits.multiple_of.neurons] = {child.widths.neurons for child in children}
    assert len(widths[4]) == 1
    assert len(widths[1]) > 1


def test_gradients_are_written_whole_and_read_again(tmp_path):
    gradients = random_gradients(GROUPED.dimensions)
    gradients.save(tmp_path / "one.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["one.npz"]
    again = GateGradients.load(tmp_path / "one.npz")
    for name, values in vars(gradients).items():
        assert np.array_equal(getattr(again, name), values)
