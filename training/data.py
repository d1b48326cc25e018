"""Which blocks form which step: a function of seed and step alone.

So any number of workers sees the same batches, and a resumed run goes on with the exact next one.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def batch_of_step(step: int, *, batch: int, blocks: int, seed: int) -> Indices:
    """The blocks of a step.

    The text is read in epochs, each in a random order of its own; a batch may reach from one epoch
    into the next.

    Args:
        step: counted from 0.
        batch: blocks in the global batch.
        blocks: how many blocks the text has.
        seed: of the orders.

    Returns:
        Indices of blocks, shape [batch].
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // blocks
    indices = np.empty(batch, np.int64)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        indices[inside] = _epoch_order(seed, int(epoch), blocks)[positions[inside] % blocks]
    return indices


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, blocks: int) -> Indices:
    return np.random.default_rng([seed, epoch]).permutation(blocks)


def share_of_rank(indices: Indices, rank: int, workers: int) -> Indices:
    """The part of a batch that a worker takes: disjoint from all others', and together the batch.

    Args:
        indices: of the batch, shape [batch].
        rank: of the worker, from 0.
        workers: how many there are.
    """
    return indices[rank::workers]
