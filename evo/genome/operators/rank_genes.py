"""Genes by rank: what the operators of a space change.

Genes speak of ranks, not of the teacher's indices: `evo.genome.space` makes them of subnets and
subnets of them, and moves what an operator returns into the bin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evo.genome.fit_to_bin import WidthPlan

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

    plan: WidthPlan
    channels: Keys
    groups: Keys
    neurons: Keys
