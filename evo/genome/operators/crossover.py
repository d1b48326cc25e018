"""Crossover of the genes of two subnets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from evo.genome.fit_to_bin import WidthPlan
from evo.genome.operators.rank_genes import Genes, Keys
from evo.genome.subnet import Mask


def crossed(first: Genes, second: Genes, rng: Generator, *, fine: bool, uniform: bool) -> Genes:
    """Each dimension from either parent, in fine spaces also from both."""
    this, other = first.plan, second.plan
    rows = 1 if uniform else len(this.groups)
    from_first = {name: rng.random((rows, 1)) < 0.5 for name in ("groups", "neurons")}
    layers_first, channels_first = rng.random(2) < 0.5
    plan = WidthPlan(
        layers=this.layers if layers_first else other.layers,
        channels=this.channels if channels_first else other.channels,
        groups=np.where(from_first["groups"][:, 0], this.groups, other.groups),
        neurons=np.where(from_first["neurons"][:, 0], this.neurons, other.neurons),
        depth=this.depth if layers_first else other.depth,
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
