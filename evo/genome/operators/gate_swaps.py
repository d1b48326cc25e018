"""Swaps of kept units for dropped ones of which gradients say that they would lower the loss.

A mutation of the fine spaces: a share of the worst kept units trades places with the best dropped
ones, each unit judged by the derivative of the loss by its gate (`evo.model.gate_gradients`). As
many are kept as before, so that the network's shape and cost stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from evo.genome.space import Space
from evo.genome.subnet import Mask, Subnet
from evo.genome.width_limits import NO_LIMITS
from evo.storage.files import atomic_file

SHARES = (-2.3, -0.7)
"""The share of the kept units that is swapped, log10 of the least and of the most."""

CHANCES = {"neurons": 0.9, "channels": 0.35, "groups": 0.25}
"""How often units of each kind are swapped."""

TAKES_PART = 0.7
"""The chance of a unit to take part, so that the swaps of a subnet differ."""

Gradient = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class GateGradients:
    """Derivatives of a loss by the gates of units, kept or dropped.

    Attributes:
        channels: shape [D].
        groups: shape [L, G], 0 in dropped layers.
        neurons: shape [L, F], 0 in dropped layers.
    """

    channels: Gradient
    groups: Gradient
    neurons: Gradient

    def save(self, path: Path) -> None:
        """Write as `.npz`, whole or not at all."""
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def load(cls, path: Path) -> GateGradients:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)


def swapped_by_gates(
    space: Space, parent: Subnet, gradients: GateGradients, rng: Generator
) -> Subnet:
    """Swap units of a subnet, of one kind or of several.

    Args:
        space: a fine one, which the parent is of.
        parent: where the gradients were taken.
        gradients: of the parent.
        rng: draws how many units are swapped, of which kinds, and which take part.

    Returns:
        A subnet of the same shape; the parent where no swap promises anything.
    """
    share = 10 ** rng.uniform(*SHARES)
    chosen = [name for name, chance in CHANCES.items() if rng.random() < chance] or ["neurons"]
    changed: dict[str, Any] = {}
    for name in chosen:
        mask, gradient = getattr(parent, name), getattr(gradients, name)
        if name == "channels":  # a channel matters to all layers
            changed[name] = swapped_row(mask, gradient, share / 2, rng)
        elif space.uniform:
            changed[name] = _alike(mask, gradient, getattr(space.order, name), parent, share, rng)
        else:
            free = space.limits == NO_LIMITS
            changed[name] = _by_layer(mask, gradient, parent.layers, share, rng, free=free)
    return replace(parent, **changed)


def swapped_row(kept: Mask, gradient: Gradient, share: float, rng: Generator) -> Mask:
    """Swap up to a share of the kept units for dropped ones, the most promising pairs first.

    Args:
        kept: shape [n].
        gradient: of the units, shape [n].
        share: of the kept; at least one unit is looked at.
        rng: draws which units take part.
    """
    takes_part = rng.random(kept.size) < TAKES_PART
    leaving, joining = np.flatnonzero(kept & takes_part), np.flatnonzero(~kept & takes_part)
    count = max(1, round(share * np.count_nonzero(kept)))
    worst = leaving[np.argsort(-gradient[leaving], kind="stable")][:count]
    best = joining[np.argsort(gradient[joining], kind="stable")][:count]
    pairs = min(len(worst), len(best))
    worst, best = worst[:pairs], best[:pairs]
    gains = gradient[best] < gradient[worst]
    swapped = kept.copy()
    swapped[worst[gains]], swapped[best[gains]] = False, True
    return swapped


def _alike(
    mask: Mask,
    gradient: Gradient,
    ranks: NDArray[np.int64],
    parent: Subnet,
    share: float,
    rng: Generator,
) -> Mask:
    """The same ranks in every layer: each judged by what it does to all kept layers."""
    by_rank = np.argsort(ranks, axis=1)
    first = int(parent.layers.argmax())  # as the kept layers are; dropped ones need not be alike
    total = np.take_along_axis(gradient, by_rank, axis=1)[parent.layers].sum(0)
    row = swapped_row(mask[first][by_rank[first]], total, share, rng)
    return row[ranks]


def _by_layer(
    mask: Mask, gradient: Gradient, layers: Mask, share: float, rng: Generator, *, free: bool
) -> Mask:
    """Within every layer or, half of the time where widths are free, across all of them: a unit
    costs the same in every layer."""
    mask, kept = mask.copy(), np.flatnonzero(layers)
    if free and len(kept) > 1 and rng.random() < 0.5:
        row = swapped_row(mask[kept].ravel(), gradient[kept].ravel(), share, rng)
        rows = row.reshape(len(kept), -1)
        if rows.any(axis=1).all():
            mask[kept] = rows
        return mask
    for layer in kept:
        mask[layer] = swapped_row(mask[layer], gradient[layer], share, rng)
    return mask
