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
from evo.storage.records import reading


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
        """Read what `save` wrote.

        Raises:
            UserError: the file is damaged.
        """
        with reading(path, "remove it, and the parts are ranked anew"):
            with np.load(path) as arrays:
                order = cls(**arrays)
            _check_ranks(order)
        return order

    @property
    def dimensions(self) -> Dimensions:
        """The teacher's."""
        return Dimensions(
            self.layers.size, self.channels.size, self.groups.shape[1], self.neurons.shape[1]
        )


def _check_ranks(order: Order) -> None:
    """Make sure that each array has every rank once.

    Raises:
        ValueError: one has not.
    """
    layers = order.layers.size
    shapes = {"layers": (), "channels": (), "groups": (layers,), "neurons": (layers,)}
    for name, rows in shapes.items():
        ranks = getattr(order, name)
        if ranks.ndim != len(rows) + 1 or ranks.shape[:-1] != rows or not ranks.size:
            raise ValueError(f"{name} has the shape {ranks.shape}")
        if (np.sort(ranks, axis=-1) != np.arange(ranks.shape[-1])).any():
            raise ValueError(f"{name} has not every rank once")
    sensitivity = order.sensitivity
    if sensitivity is not None and (sensitivity.shape != (layers,) or not (sensitivity > 0).all()):
        raise ValueError("sensitivity has not a positive number for each layer")


def _ranks(importance: NDArray[np.floating]) -> NDArray[np.int64]:
    best_first = np.argsort(-importance, axis=-1, kind="stable")
    return np.argsort(best_first, axis=-1, kind="stable")
