"""How much text ranks random candidates as four times as much does: Kendall's tau.

What `benchmarks.search.rungs` calls scoring in full is the least text at which it does, and no
more: an opponent that wastes no tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

TIMES = 4
"""The ranking on so many times the text is the one to agree with."""

AGREED = 0.95


def kendall(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Kendall's rank correlation (1938) of two lists without ties.

    Pairs in the same order less pairs in the opposite one, as a share of all.
    """
    upper = np.triu_indices(len(one), 1)
    first, second = (np.sign(values[:, None] - values)[upper] for values in (one, other))
    return float((first * second).mean())


def curve(losses: NDArray[np.float64]) -> dict[int, float]:
    """How a text's ranking agrees with that of four times as much, which holds it.

    Args:
        losses: of each candidate on each sequence, shape [candidates, sequences].

    Returns:
        By the number of sequences, 1, 2, 4 and so on while there is four times as much: the mean
        over all disjoint stretches of the text, as a single one may be lucky.
    """
    result = {}
    size = 1
    while TIMES * size <= losses.shape[1]:
        stretches = [
            losses[:, begin : begin + TIMES * size]
            for begin in range(0, losses.shape[1] - TIMES * size + 1, TIMES * size)
        ]
        taus = [kendall(one[:, :size].sum(1), one.sum(1)) for one in stretches]
        result[size] = float(np.mean(taus))
        size *= 2
    return result


def fewest(curves: Sequence[Mapping[int, float]]) -> int:
    """The fewest sequences from which on the median of the curves is at least `AGREED`.

    Args:
        curves: of the same sizes, at least one.

    Raises:
        ValueError: no size is enough.
    """
    enough = None
    for size in sorted(curves[0], reverse=True):
        if np.median([one[size] for one in curves]) < AGREED:
            break
        enough = size
    if enough is None:
        raise ValueError(f"no size up to {max(curves[0])} sequences ranks as more text does")
    return enough
