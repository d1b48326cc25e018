"""Predict decode latency from a network's widths, by what was measured of some shapes.

The prediction is linear in what a block, a query group, a neuron and their weights cost, and no
unit_cost is negative. Measured once for a run, on its own device; proposals are fitted with it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evo.genome.cost import Architecture, LatencyUnitCosts
from evo.genome.subnet import Widths
from evo.genome.width_limits import NO_LIMITS
from evo.storage.files import atomic_file

FILE = "latency.json"

SHAPES = 32
"""Shapes that are measured: more than four for each of the seven unit costs."""


@dataclass(frozen=True)
class Latencies:
    """What was measured.

    Attributes:
        length: of the sequence whose last token was decoded, tokens.
        device: on which.
        shapes: layers, channels, groups of each layer, neurons of each layer; the first is the
            teacher's.
        measured: latency of each shape, femtoseconds.
    """

    length: int
    device: str
    shapes: tuple[tuple[int, int, int, int], ...]
    measured: tuple[int, ...]

    @property
    def teacher(self) -> int:
        """The teacher's own latency, femtoseconds."""
        return self.measured[0]

    def unit_costs(self, architecture: Architecture) -> LatencyUnitCosts:
        """What predicts these measurements with the least squared relative error."""
        layers, channels, groups, neurons = np.array(self.shapes, float).T
        ones, heads = np.ones_like(layers), layers * groups * architecture.head_size
        features = np.stack(
            [
                ones, channels, layers, heads, heads * channels,
                layers * neurons, layers * neurons * channels,
            ],
            axis=1,
        )  # fmt: skip
        measured = np.array(self.measured, float)
        found = non_negative(features / measured[:, None], np.ones_like(measured))
        names = (field.name for field in fields(LatencyUnitCosts))
        return LatencyUnitCosts(
            **dict(zip(names, np.rint(found).astype(int).tolist(), strict=True))
        )

    def save(self, path: Path) -> None:
        """Write them down."""
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: Path) -> Latencies:
        """The inverse of `save`."""
        record = json.loads(path.read_text())
        shapes = tuple(tuple(shape) for shape in record.pop("shapes"))
        return cls(shapes=shapes, measured=tuple(record.pop("measured")), **record)


def calibration_shapes(architecture: Architecture) -> tuple[tuple[int, int, int, int], ...]:
    """The shapes to measure, the teacher's own first: the same for every run."""
    rng, grid = np.random.default_rng(0), NO_LIMITS.grid(architecture)
    own = architecture.dimensions
    shapes = [(own.layers, own.channels, own.groups, own.neurons)]
    ranges = grid.layers, grid.channels, grid.groups, grid.neurons
    while len(shapes) < SHAPES:
        layers, channels, groups, neurons = (
            int(rng.integers(allowed.start, allowed[-1], endpoint=True)) for allowed in ranges
        )
        shapes.append((layers, channels, groups, neurons))
    return tuple(shapes)


def widths_of_shape(shape: tuple[int, int, int, int]) -> Widths:
    """A shape as the widths of a network."""
    layers, channels, groups, neurons = shape
    return Widths(channels, (groups,) * layers, (neurons,) * layers)


def non_negative(features: ArrayLike, values: ArrayLike) -> NDArray[np.float64]:
    """Least squares without negative coefficients: the best of all choices of which are zero.

    Exact, as the solution is plain least squares on what is not zero in it; for few features.

    Args:
        features: shape [N, K].
        values: shape [N].

    Returns:
        Shape [K].
    """
    a, b = np.asarray(features, float), np.asarray(values, float)
    scale = np.linalg.norm(a, axis=0)
    a = a / scale
    best, least = np.zeros(a.shape[1]), float(b @ b)
    for chosen in product((False, True), repeat=a.shape[1]):
        columns = np.flatnonzero(chosen)
        part = np.linalg.lstsq(a[:, columns], b, rcond=None)[0]
        error = float(((a[:, columns] @ part - b) ** 2).sum())
        if (part >= 0).all() and error < least:
            best, least = np.zeros(a.shape[1]), error
            best[columns] = part
    return best / scale
