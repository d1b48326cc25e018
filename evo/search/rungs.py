"""Screening in stages: all candidates on a little text, those that may be parents on more.

EvoPress (arXiv 2410.14649, section 3.1) keeps 16, 4 and 1 of 128 offspring on 2k, 16k and 128k
tokens. Here all candidates of a stage see the same sequences, those of the next generation others,
and each is compared with its parents, whose losses are known. Two rules decide who goes on. A fixed
share bounds the cost; and who is worse, with a stated confidence, than the last of those that would
now be elites, is not scored further.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evo.search.rung_settings import Rungs

Losses = NDArray[np.float64]

FEWEST_SEQUENCES = 2
"""Of a stage. Searches that began on a single one ended worse (benchmarks/rungs.md)."""

FEWEST_TESTED = 4
"""Of fewer sequences a standard error means little: there the share alone decides."""


@dataclass(frozen=True)
class Stages:
    """The text cut into shards, so that every stage is a whole number of them.

    Attributes:
        sizes: sequences that have been scored when each stage ends, increasing; the last is all.
        rows_per_shard: sequences of a shard, at most.
        begin: the sequence that is scored first; after the text's last comes its first.
    """

    sizes: tuple[int, ...]
    rows_per_shard: int
    begin: int = 0

    @classmethod
    def of(cls, rungs: Rungs, sequences: int, rows_per_shard: int) -> Stages:
        """Cut a text.

        Args:
            rungs: the stages; each has `FEWEST_SEQUENCES` at least, and one that then comes out
                at more than half of the next, as may be where the text is short, is left out.
            sequences: of the text.
            rows_per_shard: sequences of a shard, at most.
        """
        sizes = [sequences]
        for share in reversed(rungs.shares):
            size = max(FEWEST_SEQUENCES, math.ceil(share * sequences))
            if 2 * size <= sizes[0]:
                sizes.insert(0, size)
        return cls(tuple(sizes), rows_per_shard)

    def turned(self, generation: int) -> Stages:
        """As many stages, but screening on other sequences than the generation before.

        A search whose candidates are always chosen on the same few sequences learns these
        (benchmarks/rungs.md). Where all is one stage, nothing is turned.
        """
        step = self.sizes[0] % self.sizes[-1]
        return replace(self, begin=generation * step % self.sizes[-1])

    @cached_property
    def shards(self) -> tuple[tuple[int, int], ...]:
        """First sequence of each shard, and the one after its last."""
        return tuple(shard for stage in self._cut for shard in stage)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Of each stage, how many shards have been scored when it ends."""
        return tuple(accumulate(len(stage) for stage in self._cut))

    def sequences(self, end: int) -> NDArray[np.int64]:
        """The sequences of the first `end` shards, in the order in which they are scored."""
        return np.concatenate([np.arange(*shard) for shard in self.shards[:end]])

    @cached_property
    def _cut(self) -> list[list[tuple[int, int]]]:
        """The shards of each stage; none goes on beyond the text's end."""
        count = self.sizes[-1]
        stages = []
        for first, last in pairwise((0, *self.sizes)):
            begin, end = self.begin + first, self.begin + last
            middle = min(max(count, begin), end)
            stages.append(
                self._shards(begin, middle) + self._shards(max(begin, count) - count, end - count)
            )
        return stages

    def _shards(self, begin: int, end: int) -> list[tuple[int, int]]:
        starts = range(begin, end, self.rows_per_shard)
        return [(start, min(start + self.rows_per_shard, end)) for start in starts]


def spread(count: int) -> NDArray[np.int64]:
    """An order of the numbers below `count` of which every beginning is evenly spread.

    The numbers by their bits read backwards (van der Corput 1935). Texts are in the order of their
    documents, whose front is no fair sample of them.
    """
    bits = max(1, (count - 1).bit_length())
    numbers = np.arange(2**bits)
    mirrored = np.zeros_like(numbers)
    for bit in range(bits):
        mirrored |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    return mirrored[mirrored < count]


def estimates(losses: Losses, seen: NDArray[np.int64], relatives: Sequence[Losses]) -> Losses:
    """What each sequence says of a candidate's mean loss on all of them.

    A candidate loses more where its parents lose more, and what these lose is known everywhere: so
    their mean is a control variate, which takes the sequences' own difficulty, and what the parents
    share with their children, out of the noise.

    Args:
        losses: on the sequences that were seen, shape [n].
        seen: which these are, shape [n].
        relatives: losses on all sequences, shape [N] each, of the parents or whoever is closest;
            without any, the losses are the estimates.
    """
    if not relatives:
        return losses
    known = np.mean(relatives, axis=0)
    return losses - known[seen] + known.mean()


def survivors(
    rungs: Rungs, losses: Mapping[str, Losses], elites: Mapping[str, float], places: int
) -> set[str]:
    """The candidates that are worth scoring on more text.

    The cut-off is the last that would be an elite if this stage decided: of candidates and elites
    together, the one in the last place. A candidate goes on unless the mean difference to it, per
    sequence, exceeds its standard error by the confidence's normal quantile; and of those not more
    than the share `survivors`, or than there are free places, the best first. The test wants
    `FEWEST_TESTED` sequences.

    Args:
        rungs: share and confidence.
        losses: of each candidate, by its id, as `estimates` gives them, shape [n], on the same
            sequences for all.
        elites: mean loss of the present elites on all sequences.
        places: how many elites there may be.

    Returns:
        Ids; among equals, the smaller id is the better.
    """
    mean = {name: float(one.mean()) for name, one in losses.items()} | dict(elites)
    ranked = sorted(mean, key=lambda name: (mean[name], name))
    last = ranked[min(places, len(ranked)) - 1]
    cutoff = losses[last] if last in losses else elites[last]
    able = [
        name
        for name in ranked
        if name in losses and not _is_worse(losses[name] - cutoff, rungs.confidence)
    ]
    free = places - len(elites)
    return set(able[: max(free, math.ceil(rungs.survivors * len(losses)))])


def _is_worse(differences: Losses, confidence: float) -> bool:
    mean = float(differences.mean())
    if mean <= 0 or confidence == 1 or differences.size < FEWEST_TESTED:
        return False
    error = float(differences.std(ddof=1)) / math.sqrt(differences.size)
    return mean > NormalDist().inv_cdf(confidence) * error
