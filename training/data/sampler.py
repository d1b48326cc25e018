"""Which blocks form which step: a function of seed and step alone.

So any number of workers sees the same batches, and a resumed run goes on with the exact next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.data.permutation import Indices, permuted

SHARE_BITS = 30
"""Shares are multiples of 2^-30, so that counting by them is exact in 64 bits."""


@dataclass(frozen=True)
class Extent:
    """What is known of a source's blocks, and so the order in which they are read.

    Attributes:
        size: blocks that are shuffled among each other: all of them, or, of a stream, those of a
            window.
        is_stream: whether the blocks go on after that. Else the source is read again, in another
            order.
    """

    size: int
    is_stream: bool = False


@dataclass(frozen=True)
class Batch:
    """The blocks of a step.

    Attributes:
        sources: the number of each block's source, shape [B].
        blocks: the block's number in its source, shape [B]; of a stream, counted from its start.
    """

    sources: Indices
    blocks: Indices

    def share(self, rank: int, workers: int) -> Batch:
        """The part that a worker takes: disjoint from all others', and together the batch.

        Args:
            rank: of the worker, from 0.
            workers: how many there are.
        """
        return Batch(self.sources[rank::workers], self.blocks[rank::workers])


@dataclass(frozen=True)
class Sampler:
    """Draws the batches.

    Attributes:
        batch: blocks in the global batch.
        extents: of each source.
        shares: of each source, adding up to 1: among the first n blocks of a run, a source of share
            s has s n, give or take one for each source.
        seed: of the orders.
    """

    batch: int
    extents: tuple[Extent, ...]
    shares: tuple[float, ...]
    seed: int

    def step(self, number: int) -> Batch:
        """The batch of a step, counted from 0."""
        positions = np.arange(number * self.batch, (number + 1) * self.batch)
        sources, places = deal(positions, self.shares)
        blocks = np.empty(self.batch, np.int64)
        for source, extent in enumerate(self.extents):
            mine = sources == source
            blocks[mine] = _in_order(places[mine], extent, (self.seed, source))
        return Batch(sources, blocks)


def deal(positions: Indices, shares: Sequence[float]) -> tuple[Indices, Indices]:
    """Which source each position of a run is dealt to, and which of its places that is.

    The first source takes its share of all positions at even distances, as Bresenham's algorithm
    spaces the steps of a line; the second its share of those that are left; and so on. That needs
    no memory of what was dealt before.

    Args:
        positions: counted from the start of the run, shape [B].
        shares: of the sources, adding up to 1.

    Returns:
        Numbers of sources, and places within them, counted from 0; shape [B] each.
    """
    sources = np.full(len(positions), len(shares) - 1)
    places = np.array(positions)
    left = np.ones(len(positions), bool)
    for source, share in enumerate(shares[:-1]):
        part = round(share / math.fsum(shares[source:]) * 2**SHARE_BITS)
        before, after = ((places[left] + n) * part >> SHARE_BITS for n in (0, 1))
        taken = after > before
        places[left] = np.where(taken, before, places[left] - before)
        here = np.flatnonzero(left)[taken]
        sources[here] = source
        left[here] = False
    return sources, places


def _in_order(places: Indices, extent: Extent, key: tuple[int, int]) -> Indices:
    """The blocks at some places of the order in which a source is read."""
    rounds = places // extent.size
    blocks = np.empty(len(places), np.int64)
    for number in np.unique(rounds):
        inside = rounds == number
        order = permuted(places[inside] % extent.size, extent.size, (*key, int(number)))
        blocks[inside] = order + (int(number) * extent.size if extent.is_stream else 0)
    return blocks
