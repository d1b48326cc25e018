"""A ranking of a teacher's layers, channels, query groups and neurons.

"The first n" then means something. Which neuron of a layer, group of a layer or channel of the
network is stored first is arbitrary, so ranking them by importance makes it "the n most
important". Nothing is permuted: an order is arrays of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evo.genome.subnet import Dimensions
from evo.storage.files import atomic_file


@dataclass(frozen=True, eq=False)
class Order:
    """Ranks, 0 for the most important.

    Attributes:
        layers: shape [L].
        channels: shape [D].
        groups: within each layer, shape [L, G].
        neurons: within each layer, shape [L, F].
        sensitivity: what thinning each layer costs, above zero, shape [L];
            None where it was not measured. See `evo.model.layer_sensitivity`.
    """

    layers: NDArray[np.int64]
    channels: NDArray[np.int64]
    groups: NDArray[np.int64]
    neurons: NDArray[np.int64]
    sensitivity: NDArray[np.float64] | None = None

    @classmethod
    def by_index(cls, dimensions: Dimensions) -> Order:
        """As stored: the paper's order."""
        d = dimensions
        return cls(
            layers=np.arange(d.layers),
            channels=np.arange(d.channels),
            groups=np.tile(np.arange(d.groups), (d.layers, 1)),
            neurons=np.tile(np.arange(d.neurons), (d.layers, 1)),
        )

    @classmethod
    def by_importance(
        cls,
        *,
        layers: NDArray[np.floating],
        channels: NDArray[np.floating],
        groups: NDArray[np.floating],
        neurons: NDArray[np.floating],
    ) -> Order:
        """The most important first; among equals, as stored. Shapes as of the ranks."""
        return cls(_ranks(layers), _ranks(channels), _ranks(groups), _ranks(neurons))

    def save(self, path: Path) -> None:
        """Write as `.npz`, whole or not at all."""
        arrays = {name: array for name, array in vars(self).items() if array is not None}
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> Order:
        """Read what `save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)


def _ranks(importance: NDArray[np.floating]) -> NDArray[np.int64]:
    best_first = np.argsort(-importance, axis=-1, kind="stable")
    return np.argsort(best_first, axis=-1, kind="stable")
