from dataclasses import replace

import numpy as np
import pytest

from evo.genome.subnet import Dimensions, Subnet, Widths
from tests.support.cuts import random_subnet

DIMENSIONS = Dimensions(layers=5, channels=21, groups=3, neurons=13)


def test_packing_is_reversible():
    for seed in range(20):
        subnet = random_subnet(DIMENSIONS, np.random.default_rng(seed), uniform=seed % 2 == 0)
        again = Subnet.unpack(subnet.pack(), DIMENSIONS)
        for name in ("layers", "channels", "groups", "neurons"):
            assert np.array_equal(getattr(subnet, name), getattr(again, name))
        assert again.id == subnet.id
        assert len(subnet.pack()) == -(-(5 + 21 + 15 + 65) // 8)


def test_packed_bytes_of_another_teacher_are_refused():
    packed = Subnet.full(DIMENSIONS).pack()
    for wrong in (packed[:-1], packed + b"\0", b""):
        with pytest.raises(ValueError, match="no genome"):
            Subnet.unpack(wrong, DIMENSIONS)


def test_the_id_is_of_what_is_expressed():
    subnet = random_subnet(DIMENSIONS, np.random.default_rng(0), uniform=False)
    layers = np.array([True, False, True, True, False])
    subnet = replace(subnet, layers=layers)
    groups, neurons = subnet.groups.copy(), subnet.neurons.copy()
    groups[1], neurons[4] = ~groups[1], ~neurons[4]
    silent = replace(subnet, groups=groups, neurons=neurons)
    assert silent.id == subnet.id
    assert silent.pack() != subnet.pack()

    ids = {subnet.id}
    for name, index in (
        ("channels", 0),
        ("channels", 20),
        ("groups", (0, 0)),
        ("neurons", (3, 12)),
        ("layers", 1),
    ):
        mask = getattr(subnet, name).copy()
        mask[index] = ~mask[index]
        if name == "groups":
            mask[0, 1] = True
        ids.add(replace(subnet, **{name: mask}).id)
    assert len(ids) == 6
    full = {Subnet.full(replace(DIMENSIONS, neurons=n)).id for n in (13, 14, 15)}
    assert len(full) == 3


def test_the_id_of_a_genome_never_changes():
    """Histories are compared by it, across versions and machines."""
    assert Subnet.full(DIMENSIONS).id == "5507d086c3d8c324"
    assert len(Subnet.full(DIMENSIONS).id) == 16


def test_head_size():
    """Said only where it is not the teacher's: other genomes and ids stay as they were."""
    full = Subnet.full(DIMENSIONS)
    subnets = [replace(full, head_size=size) for size in (None, 1, 8, 300)]
    assert len({subnet.id for subnet in subnets}) == 4
    for subnet in subnets:
        again = Subnet.unpack(subnet.pack(), DIMENSIONS)
        assert (again.head_size, again.id) == (subnet.head_size, subnet.id)
        assert again.widths == replace(full.widths, head_size=subnet.head_size)
        assert len(subnet.pack()) == len(full.pack()) + (0 if subnet.head_size is None else 2)
    for size in (0, -8, 2**16):
        with pytest.raises(ValueError, match="cannot be"):
            replace(full, head_size=size)


def test_widths():
    subnet = Subnet.full(DIMENSIONS)
    assert subnet.dimensions == DIMENSIONS
    assert subnet.widths == Widths(21, (3,) * 5, (13,) * 5)
    assert subnet.widths.is_uniform
    layers = np.array([True, False, False, False, True])
    groups = subnet.groups.copy()
    groups[1, 0] = groups[4, :2] = False
    cut = Subnet(layers, np.arange(21) < 4, groups, subnet.neurons)
    assert cut.widths == Widths(4, (3, 1), (13, 13))
    assert cut.widths.layers == 2
    assert not cut.widths.is_uniform


def test_masks_are_frozen_copies():
    layers = np.ones(5, bool)
    full = Subnet.full(DIMENSIONS)
    subnet = Subnet(layers, full.channels, full.groups, full.neurons)
    layers[0] = False
    assert subnet.layers.all()
    with pytest.raises(ValueError, match="read-only"):
        subnet.layers[0] = False


@pytest.mark.parametrize("name", ["layers", "channels", "groups", "neurons"])
def test_something_is_kept_everywhere(name):
    full = Subnet.full(DIMENSIONS)
    mask = getattr(full, name).copy()
    mask[2 if mask.ndim == 2 else slice(None)] = False
    with pytest.raises(ValueError, match="keeps a layer"):
        replace(full, **{name: mask})
    with pytest.raises(ValueError, match="5 layers"):
        replace(full, groups=full.groups[:4])
    if mask.ndim == 2:  # nothing need be kept of a dropped layer
        layers = np.array([True, True, False, True, True])
        assert replace(full, layers=layers, **{name: mask}).widths.layers == 4
