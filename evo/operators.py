"""Mutation and crossover of the genes of a subnet: free functions, each draws from the given rng.

Genes speak of ranks, not of the teacher's indices: `evo.space` makes them of subnets and subnets
of them, and moves what an operator returns into the bin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.cost import Architecture
from evo.fit import Plan
from evo.limits import DIMENSIONS
from evo.subnet import Mask

Keys = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Genes:
    """A plan with, for every dimension, keys by which the smallest are kept.

    Attributes:
        plan: how many are kept.
        channels: shape [D].
        groups: by rank, shape [L, G], or [1, G] where all layers are alike.
        neurons: by rank, shape [L, F], or [1, F] where all layers are alike.
    """

    plan: Plan
    channels: Keys
    groups: Keys
    neurons: Keys


def mutated(
    genes: Genes,
    architecture: Architecture,
    rng: Generator,
    *,
    fine: bool,
    uniform: bool,
    progress: float = 0.0,
) -> Genes:
    """Change some dimensions, by steps whose size is drawn anew each time.

    Args:
        genes: of the parent.
        architecture: of the teacher.
        rng: draws what changes, and by how much.
        fine: whether kept ones also swap places with dropped ones.
        uniform: whether all layers change alike; else they do half of the time.
        progress: of the search, from 0 to 1: the largest steps shrink tenfold on the way.
    """
    full = architecture.dimensions
    chosen = rng.random(len(DIMENSIONS)) < 0.5
    chosen[rng.integers(len(DIMENSIONS))] = True
    scale = 10 ** rng.uniform(-2, -0.5 - progress)
    alike = uniform or rng.random() < 0.5
    plan = genes.plan
    changes: dict[str, Keys] = {}
    for name in np.array(DIMENSIONS)[chosen]:
        if name == "layers":
            plan = _mutated_layers(plan, full.layers, scale, rng, fine=fine)
            continue
        if name == "channels":
            low = min(architecture.head_size, full.channels)
            step = _steps(full.channels, scale, (), rng)
            plan = replace(plan, channels=int(np.clip(plan.channels + step, low, full.channels)))
        else:
            most = full.groups if name == "groups" else full.neurons
            counts = getattr(plan, name)
            step = _steps(most, scale, (1,) if alike else counts.shape, rng)
            if not alike:
                step = step * (rng.random(counts.shape) < rng.uniform(1 / len(counts), 1))
            plan = replace(plan, **{name: np.clip(counts + step, 1, most)})
        if fine and rng.random() < 0.5:
            changes[name] = _swapped(getattr(genes, name), scale, rng)
    return replace(genes, plan=plan, **changes)


def _mutated_layers(plan: Plan, full: int, scale: float, rng: Generator, *, fine: bool) -> Plan:
    layers, depth = plan.layers, plan.depth
    if fine and layers < full and rng.random() < 0.5:
        kept, dropped = np.flatnonzero(depth < layers), np.flatnonzero(depth >= layers)
        pair = [rng.choice(kept), rng.choice(dropped)]
        depth = depth.copy()
        depth[pair] = depth[pair[::-1]]
    else:
        layers = int(np.clip(layers + _steps(full, scale, (), rng), 1, full))
    return replace(plan, layers=layers, depth=depth)


def _steps(most: int, scale: float, shape: tuple[int, ...], rng: Generator) -> NDArray[np.int64]:
    """Signed steps of at least one, about `scale` of the dimension."""
    size = np.maximum(1, np.rint(np.abs(rng.standard_normal(shape)) * scale * most))
    return (size * rng.choice([-1, 1], shape)).astype(np.int64)


def _swapped(keys: Keys, scale: float, rng: Generator) -> Keys:
    """Keys in which up to a share `scale` of the kept of some layers swap places with dropped ones.

    A rank's chance falls with its distance from the border between the first of the order and the
    rest, by e over `scale` of the dimension: of the kept the least important leave, of the dropped
    the most important come.
    """
    rows = keys.reshape(-1, keys.shape[-1])
    ranks = np.arange(rows.shape[1], dtype=np.float32)
    kept = rows < 1
    counts = kept.sum(1, keepdims=True, dtype=np.float32)
    distance = np.where(kept, counts - 1 - ranks, ranks - counts)
    chance = np.exp(np.maximum(distance, 0) / -np.float32(max(1, scale * rows.shape[1])))
    swaps = np.ceil(scale * rng.random(counts.shape, np.float32) * counts)
    swaps *= rng.random(counts.shape) < rng.uniform(1 / len(rows), 1)
    swaps[counts == len(ranks)] = 0
    leaving = (chance * kept).sum(1, keepdims=True)
    coming = np.maximum((chance * ~kept).sum(1, keepdims=True), np.float32(1e-9))
    swapping = rng.random(rows.shape, np.float32) < chance * swaps / np.where(kept, leaving, coming)
    # Past all others: where more leave than come, or come than leave, the border's next make up.
    return (rows + swapping * np.where(kept, np.float32(2), np.float32(-2))).reshape(keys.shape)


def crossed(first: Genes, second: Genes, rng: Generator, *, fine: bool, uniform: bool) -> Genes:
    """Each dimension from either parent, in fine spaces also from both."""
    one, two = first.plan, second.plan
    rows = 1 if uniform else len(one.groups)
    from_first = {name: rng.random((rows, 1)) < 0.5 for name in ("groups", "neurons")}
    layers_first, channels_first = rng.random(2) < 0.5
    plan = Plan(
        layers=one.layers if layers_first else two.layers,
        channels=one.channels if channels_first else two.channels,
        groups=np.where(from_first["groups"][:, 0], one.groups, two.groups),
        neurons=np.where(from_first["neurons"][:, 0], one.neurons, two.neurons),
        depth=one.depth if layers_first else two.depth,
    )
    if not fine:
        return replace(first, plan=plan)
    picks = {"channels": np.array(channels_first), **from_first}
    keys = {
        name: _mixed(getattr(first, name), getattr(second, name), pick, rng)
        for name, pick in picks.items()
    }
    return Genes(plan, **keys)


def _mixed(first: Keys, second: Keys, pick: Mask, rng: Generator) -> Keys:
    """One parent's set, or, half of the time, what both keep and then what either does."""
    if rng.random() < 0.5:
        return first + second
    return np.where(pick, first, second)
