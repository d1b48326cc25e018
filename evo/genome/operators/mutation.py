"""Mutation of the genes of a subnet: free functions, each of which draws from the given rng."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.genome.cost import Architecture
from evo.genome.fit_to_bin import WidthPlan
from evo.genome.operators.rank_genes import Genes, Keys
from evo.genome.width_limits import DIMENSIONS


def mutated(
    genes: Genes,
    architecture: Architecture,
    rng: Generator,
    *,
    fine: bool,
    uniform: bool,
    sensitivity: NDArray[np.float64] | None = None,
) -> Genes:
    """Change some dimensions, by steps whose size is drawn anew each time.

    Args:
        genes: of the parent.
        architecture: of the teacher.
        rng: draws what changes, and by how much.
        fine: whether kept ones also swap places with dropped ones.
        uniform: whether all layers change alike.
        sensitivity: of the layers, shape [L]: where layers change each in its own way, the more
            sensitive ones mostly grow and the others mostly shrink.
    """
    full = architecture.dimensions
    chosen = rng.random(len(DIMENSIONS)) < 0.5
    chosen[rng.integers(len(DIMENSIONS))] = True
    scale = 10 ** rng.uniform(-2, -0.5)
    plan = genes.plan
    changes: dict[str, Keys] = {}
    for name in np.array(DIMENSIONS)[chosen]:
        if name == "layers":
            plan = mutated_layers(plan, full.layers, scale, rng, fine=fine)
            continue
        if name == "channels":
            low = min(architecture.head_size, full.channels)
            step = steps(full.channels, scale, (), rng)
            plan = replace(plan, channels=int(np.clip(plan.channels + step, low, full.channels)))
        else:
            most = full.groups if name == "groups" else full.neurons
            counts = getattr(plan, name)
            step = steps(most, scale, (1,) if uniform else counts.shape, rng)
            if not uniform:
                step = step * (rng.random(counts.shape) < rng.uniform(1 / len(counts), 1))
                if sensitivity is not None:
                    step = np.abs(step) * directions(sensitivity, rng)
            plan = replace(plan, **{name: np.clip(counts + step, 1, most)})
        if fine:
            changes[name] = swapped(getattr(genes, name), scale, rng)
    return replace(genes, plan=plan, **changes)


def mutated_layers(
    plan: WidthPlan, full: int, scale: float, rng: Generator, *, fine: bool
) -> WidthPlan:
    """One kept layer for a dropped one, or more or fewer layers."""
    layers, depth = plan.layers, plan.depth
    if fine and layers < full and rng.random() < 0.5:
        kept, dropped = np.flatnonzero(depth < layers), np.flatnonzero(depth >= layers)
        pair = [rng.choice(kept), rng.choice(dropped)]
        depth = depth.copy()
        depth[pair] = depth[pair[::-1]]
    else:
        layers = int(np.clip(layers + steps(full, scale, (), rng), 1, full))
    return replace(plan, layers=layers, depth=depth)


def steps(most: int, scale: float, shape: tuple[int, ...], rng: Generator) -> NDArray[np.int64]:
    """Signed steps of at least one, about `scale` of the dimension."""
    size = np.maximum(1, np.rint(np.abs(rng.standard_normal(shape)) * scale * most))
    return (size * rng.choice([-1, 1], shape)).astype(np.int64)


def directions(sensitivity: NDArray[np.float64], rng: Generator) -> NDArray[np.int64]:
    """1 or -1 for each layer: up with a chance from 0.15, the least sensitive, to 0.85."""
    ranks = np.argsort(np.argsort(sensitivity)) / max(1, len(sensitivity) - 1)
    return np.where(rng.random(len(ranks)) < 0.15 + 0.7 * ranks, 1, -1)


def swapped(keys: Keys, scale: float, rng: Generator) -> Keys:
    """Keys in which up to a share `scale` of the kept swap places with dropped ones."""
    keys = keys.copy()
    for row in keys.reshape(-1, keys.shape[-1]):
        kept, dropped = np.flatnonzero(row < 1), np.flatnonzero(row >= 1)
        most = min(len(kept), len(dropped))
        if most:
            count = min(most, int(rng.integers(1, max(1, round(scale * len(kept))) + 1)))
            row[rng.choice(kept, count, replace=False)] += 1
            row[rng.choice(dropped, count, replace=False)] -= 1
    return keys
