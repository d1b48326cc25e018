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
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evo.search.rung_settings import Rungs

Losses = NDArray[np.float64]

FEWEST_TESTED = 4
"""The standard error of fewer sequences means little: there the share alone decides."""


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
    mean = {name: float(values.mean()) for name, values in losses.items()} | dict(elites)
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
