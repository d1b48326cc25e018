"""Screening in stages: all candidates on a little text, those that may be parents on more.

EvoPress (arXiv 2410.14649, section 3.1) keeps 16, 4 and 1 of 128 offspring on 2k, 16k and 128k
tokens. Here all candidates of a stage see the same sequences, those of the next generation others,
and each is compared with its parents, whose losses are known. Two rules decide who goes on. A fixed
share bounds the cost; and who is worse, with a stated confidence, than the last of those that would
now be elites, is not scored further.

Where elites are kept per niche, a candidate is compared with those of its own niche, and the niches
share the places: first what may fill a niche, then the best of each niche, those first that gain
the most on their niche's last elite, then the second best of each. So niches cost no more than a
search without them, but for a full scoring of each elite that a niche lacks; no niche has a second
place while another has a candidate left, and places go where there is something to gain. How far a
niche is behind the best of all decides nothing: losses before training are not comparable between
depths, which is why there are niches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evo.search.screening.rung_settings import Rungs

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
    rungs: Rungs,
    losses: Mapping[str, Losses],
    elites: Mapping[str, float],
    places: int,
    niches: Mapping[str, int] | None = None,
) -> set[str]:
    """The candidates that are worth scoring on more text.

    The cut-off is the last that would be an elite if this stage decided: of candidates and elites
    of a niche together, the one in the last place. A candidate goes on unless the mean difference
    to it, per sequence, exceeds its standard error by the confidence's normal quantile; and of
    those not more than the share `survivors`, or than there are free places, the best first. The
    test wants `FEWEST_TESTED` sequences.

    Args:
        rungs: share and confidence.
        losses: of each candidate, by its id, as `estimates` gives them, shape [n], on the same
            sequences for all.
        elites: mean loss of the present elites on all sequences.
        places: how many elites a niche may have.
        niches: the niche of each candidate and of each elite; by default there is one for all.

    Returns:
        Ids; among equals, the smaller id is the better.
    """
    mean = {name: float(values.mean()) for name, values in losses.items()} | dict(elites)
    members: dict[int, list[str]] = {}
    for name in sorted(mean, key=lambda name: (mean[name], name)):
        members.setdefault(niches[name] if niches else 0, []).append(name)
    going: list[str] = []
    rivals: list[tuple[int, float, str]] = []
    for ranked in members.values():
        own = [mean[name] for name in ranked if name in elites]
        last = ranked[min(places, len(ranked)) - 1]
        cutoff = losses[last] if last in losses else elites[last]
        able = [
            name
            for name in ranked
            if name in losses and not _is_worse(losses[name] - cutoff, rungs.confidence)
        ]
        free = max(0, places - len(own))
        going += able[:free]
        beaten = max(own, default=mean[last])
        rivals += [(turn, mean[name] - beaten, name) for turn, name in enumerate(able)][free:]
    room = max(0, math.ceil(rungs.survivors * len(losses)) - len(going))
    return {*going, *(name for _, _, name in sorted(rivals)[:room])}


def _is_worse(differences: Losses, confidence: float) -> bool:
    mean = float(differences.mean())
    if mean <= 0 or confidence == 1 or differences.size < FEWEST_TESTED:
        return False
    error = float(differences.std(ddof=1)) / math.sqrt(differences.size)
    return mean > NormalDist().inv_cdf(confidence) * error
