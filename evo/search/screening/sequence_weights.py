"""How much each sequence of the text counts in the fitness."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evo.search.screening.rungs import Losses

Rows = tuple[int, int]
"""A shard's first sequence, and the one after its last."""


@dataclass(frozen=True)
class SequenceWeights:
    """The weights of a text's sequences.

    Attributes:
        values: shape [N].
    """

    values: NDArray[np.float64]

    @classmethod
    def equal(cls, sequences: int) -> SequenceWeights:
        """Every sequence counts the same."""
        return cls(np.ones(sequences))

    @cached_property
    def total(self) -> float:
        """The sum of all weights, exactly rounded."""
        return math.fsum(self.values)

    def weighted(self, losses: tuple[float, ...], rows: Rows) -> Losses:
        """The losses of a shard's sequences times their weights."""
        return np.array(losses) * self.values[slice(*rows)]

    def mean(self, shards: Iterable[tuple[Rows, tuple[float, ...], int]]) -> float:
        """The weighted mean per target, exactly rounded: the same for every cut into shards.

        Args:
            shards: rows, the losses of their sequences, and the targets of all these.
        """
        total: list[float] = []
        targets: list[float] = []
        for rows, losses, tokens in shards:
            total += self.weighted(losses, rows).tolist()
            targets += (self.values[slice(*rows)] * (tokens / (rows[1] - rows[0]))).tolist()
        return math.fsum(total) / math.fsum(targets)
