"""Proxies of fitness: how much of the teacher's importance a subnet keeps. Needs no scoring.

Of each kind of unit (layers, channels, query groups, MLP neurons) the share of importance that is
kept; fitness is minus the mean of the four shares, so that lower is better and -1 is the teacher:

    layers, channels   sum of kept importance / sum of all
    groups, neurons    the same within each layer, summed over the kept layers / all layers

Within a layer, because importances are comparable there only: activations grow with depth. Dividing
by sums (or means) makes the kinds comparable, which are measured in different units. Of smaller
heads, their groups count by the share of the head size that is kept. Importance is by the norms of
weights (`magnitude`) or by what units contribute on text (`activation`): see
`evo.model.importance`. The paper (arXiv 2510.07227) compares perplexity with
proxies of both kinds; the formula is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evo.genome.subnet import Subnet
from evo.storage.files import atomic_file
from evo.storage.records import reading

FIELDS = ("layers", "channels", "groups", "neurons")


@dataclass(frozen=True, eq=False)
class Importance:
    """How much the parts of a teacher matter; higher is more.

    Attributes:
        layers: shape [L].
        channels: shape [D].
        groups: shape [L, G].
        neurons: shape [L, F].
    """

    layers: NDArray[np.float64]
    channels: NDArray[np.float64]
    groups: NDArray[np.float64]
    neurons: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write as `.npz`, whole or not at all."""
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{name: getattr(self, name) for name in FIELDS})

    @classmethod
    def load(cls, path: Path) -> Importance:
        """Read what `save` wrote.

        Raises:
            UserError: the file is damaged.
        """
        with reading(path, "remove it, and it is measured anew"):
            with np.load(path) as arrays:
                found = {name: arrays[name] for name in FIELDS}
            for name, values in found.items():
                if not (np.issubdtype(values.dtype, np.floating) and np.isfinite(values).all()):
                    raise ValueError(f"{name} has values that are no finite numbers")
            return cls(**found)


class Proxy:
    """Fitness without scoring.

    Args:
        importance: of the teacher's parts. What is negative (a layer without which the loss is
            lower) counts as nothing.
        head_size: the teacher's.
    """

    def __init__(self, importance: Importance, head_size: int) -> None:
        self._head_size = head_size
        self._layers, self._channels, self._groups, self._neurons = (
            _shares(getattr(importance, name)) for name in FIELDS
        )

    def fitness(self, subnet: Subnet) -> float:
        """Minus the mean share of importance that is kept, from -1 (the teacher) to 0."""
        kept = subnet.layers
        of_heads = (subnet.head_size or self._head_size) / self._head_size
        shares = (
            self._layers[kept].sum(),
            self._channels[subnet.channels].sum(),
            of_heads * (self._groups * subnet.groups)[kept].sum() / kept.size,
            (self._neurons * subnet.neurons)[kept].sum() / kept.size,
        )
        return -float(np.mean(shares))


def _shares(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shares of the sum over the last dimension; equal ones where the sum is 0."""
    values = np.maximum(importance, 0)
    total = values.sum(-1, keepdims=True)
    return np.where(total > 0, values / np.where(total > 0, total, 1), 1 / values.shape[-1])
