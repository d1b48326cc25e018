"""The blocks that form each step, as a function of seed and step alone.

Any number of workers therefore sees the same batches, and a resumed run goes on with the exact next
one.
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
    """The numbers by which a source's blocks are ordered.

    Attributes:
        size: number of blocks that are shuffled among each other: all of them, or those of a
            stream's window.
        is_stream: whether other blocks follow after these. Otherwise the source is read again, in
            another order.
    """

    size: int
    is_stream: bool = False


@dataclass(frozen=True)
class Batch:
    """The blocks of a step.

    Attributes:
        sources: number of each block's source, shape [B].
        blocks: number of each block in its source, shape [B]; for a stream counted from its start.
    """

    sources: Indices
    blocks: Indices

    def share(self, rank: int, workers: int) -> Batch:
        """A worker's part of the batch; the parts of all workers are disjoint, and make the batch.

        Workers are numbered from 0.
        """
        return Batch(self.sources[rank::workers], self.blocks[rank::workers])


@dataclass(frozen=True)
class Sampler:
    """Draws the batches.

    Attributes:
        batch: blocks in the global batch.
        extents: extent of each source.
        shares: share of each source, adding up to 1: among the first n blocks of a run, a source of
            share s has s n, give or take one for each source.
        seed: seeds the orders.
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
    """Deal the positions of a run to its sources, and to the places within each source.

    The first source takes its share of all positions at even distances, as Bresenham's algorithm
    spaces the steps of a line; the second its share of those that are left; and so on. That needs
    no memory of what was dealt before.

    Args:
        positions: counted from the start of the run, shape [B].
        shares: share of each source, adding up to 1.

    Returns:
        The number of each position's source, and its place within the source, counted from 0; shape
        [B] each.
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
