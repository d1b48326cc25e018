"""Predict decode latency from a network's widths, by what was measured of some shapes.

The prediction is linear in what a block, a query group, a neuron and their weights cost, and no
price is negative. Measured once for a run, on its own device; proposals are fitted with it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from evo.genome.cost import Architecture, LatencyUnitCosts
from evo.genome.subnet import Widths
from evo.genome.width_limits import NO_LIMITS
from evo.storage.files import write_whole
from evo.storage.records import built, parse, reading

FILE = "latency.json"

SHAPES = 32
"""The number of shapes that are measured: more than four for each of the seven unit costs."""


@dataclass(frozen=True)
class Latencies:
    """The measured latencies of some shapes.

    Attributes:
        length: the length of the sequence whose last token was decoded, tokens.
        device: the kind of device on which it was measured.
        shapes: layers, channels, groups of each layer and neurons of each layer; the first shape
            is the teacher's.
        measured: the latency of each shape, femtoseconds.
    """

    length: int
    device: str
    shapes: tuple[tuple[int, int, int, int], ...]
    measured: tuple[int, ...]

    @property
    def teacher(self) -> int:
        """The latency of the teacher itself, femtoseconds."""
        return self.measured[0]

    def unit_costs(self, architecture: Architecture) -> LatencyUnitCosts:
        """Fit the unit costs, none of them negative, by the least squared relative error.

        Raises:
            RuntimeError: the fit does not converge.
        """
        from scipy.optimize import nnls  # slow to import

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
        relative = features / measured[:, None]
        scale = np.linalg.norm(relative, axis=0)
        found = nnls(relative / scale, np.ones_like(measured))[0] / scale
        names = (field.name for field in fields(LatencyUnitCosts))
        costs = np.rint(found).astype(int).tolist()
        return LatencyUnitCosts(**dict(zip(names, costs, strict=True)))

    def save(self, path: Path) -> None:
        """Write the measurements as JSON."""
        write_whole(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def load(cls, path: Path) -> Latencies:
        """Read what `save` wrote.

        Raises:
            UserError: the file is damaged.
        """
        with reading(path, "remove it, and latencies are measured anew"):
            return built(parse(path.read_bytes(), dict[str, Any]), cls)


def calibration_shapes(architecture: Architecture) -> tuple[tuple[int, int, int, int], ...]:
    """Choose the shapes to measure, the teacher's own first; every run has the same."""
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
    """Express a shape as the widths of a network."""
    layers, channels, groups, neurons = shape
    return Widths(channels, (groups,) * layers, (neurons,) * layers)
