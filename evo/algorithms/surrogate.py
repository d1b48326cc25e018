"""A model of the fitness, fitted to all scores so far, that chooses among many proposals.

A Gaussian process (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006), of which
a search uses the mean alone: it proposes many candidates for each place of a generation, and scores
those that are expected to be the best. What the model sees is the shape of a network, how much of
each of the teacher's layers it keeps, and in fine spaces how much of that is first in the order.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from evo.algorithms.base import Observation, Proposal
from evo.genome.space import Space
from evo.genome.subnet import Mask, Subnet

MOST = 300
"""The model is fitted to at most this number of observations; its time grows with their cube."""

JITTER = 1e-6
"""Variance that keeps a matrix invertible, where that of the observations is 1."""

FLOOR = 1e-3
"""No loss is taken to be less than this share of the median."""

Array = NDArray[np.float64]


class Surrogate:
    """Chooses among proposals of a search.

    Args:
        space: where they come from.
        niche: gives the niche of a candidate, within which it competes.
    """

    def __init__(self, space: Space, niche: Callable[[Subnet], int]) -> None:
        self._space, self._niche = space, niche
        self._features = Features(space)

    def relevant(self, observed: Sequence[Observation]) -> list[Observation]:
        """The best of all observations so far, those of each niche in turn."""
        losses = np.array([one.loss for one in observed])
        order = self._in_turns([one.subnet for one in observed], losses)
        return [observed[place] for place in order[:MOST]]

    def choose(
        self,
        proposals: Sequence[Proposal],
        count: int,
        observed: Sequence[Observation],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[Proposal]:
        """The proposals that are expected to be the best, those of each niche in turn.

        In a fine space at most half of them keep the same layers while there are others: the model
        is surest of the layers that it knows, and would choose no others.

        Args:
            proposals: each of another candidate.
            count: number of proposals that are chosen, at most.
            observed: what `relevant` has left, at least one.
            meanwhile: called for each subnet that is looked at.
        """
        if not proposals:
            return []
        subnets = [one.subnet for one in proposals]
        most = -(-count // 2) if self._space.fine else count
        alike = Counter[bytes]()
        first, rest = list[Proposal](), list[Proposal]()
        expected = expected_losses(self._features, observed, subnets, meanwhile)
        for place in self._in_turns(subnets, expected):
            kept = subnets[place].layers.tobytes()
            alike[kept] += 1
            (first if alike[kept] <= most else rest).append(proposals[place])
        return [*first, *rest][:count]

    def _in_turns(self, subnets: Sequence[Subnet], losses: Array) -> list[int]:
        """Places of subnets: the best of every niche, then the second bests, and so on; within a
        turn the best first."""
        turns = Counter[int]()
        ranked = []
        for place in sorted(range(len(subnets)), key=lambda at: (losses[at], subnets[at].id)):
            niche = self._niche(subnets[place])
            ranked.append((turns[niche], place))
            turns[niche] += 1
        return [place for _, place in sorted(ranked, key=lambda pair: pair[0])]


def expected_losses(
    features: Features,
    observed: Sequence[Observation],
    subnets: Sequence[Subnet],
    meanwhile: Callable[[], None] = lambda: None,
) -> Array:
    """What a Gaussian process expects subnets to lose: the mean of the logarithm, shape [N].

    The kernel is the sum of a linear one, a Matern one of smoothness 5/2 and noise, to which an
    observation adds its own variance. Weights and length are those of the largest likelihood.

    Args:
        features: of the space that all come from.
        observed: candidates whose losses are known, more or less exactly.
        subnets: candidates whose losses are not known.
        meanwhile: called for each of all these.
    """
    known = features.of([one.subnet for one in observed], meanwhile)
    asked = features.of(subnets, meanwhile)
    # Each feature of several numbers weighs as much as any other.
    centers = [part.mean(0) for part in known]
    scales = [
        _scale(np.sqrt(((part - center) ** 2).sum(1).mean()))
        for part, center in zip(known, centers, strict=True)
    ]

    def scaled(parts: Sequence[Array]) -> Array:
        pairs = zip(parts, centers, scales, strict=True)
        return np.concatenate([(part - center) / scale for part, center, scale in pairs], axis=1)

    losses = np.array([one.loss for one in observed])
    # An estimate of a small loss, such as a divergence, can be below 0.
    losses = np.maximum(losses, FLOOR * np.median(np.abs(losses)) + 1e-12)
    logarithms = np.log(losses)
    spread = _scale(logarithms.std())
    kernel = (
        ConstantKernel(0.5, (1e-3, 50)) * DotProduct(0, "fixed")
        + ConstantKernel(0.5, (1e-3, 20)) * Matern(2.0, (0.3, 30), nu=2.5)
        + WhiteKernel(1e-2, (1e-4, 1))
    )
    variances = np.array([one.variance for one in observed]) / (losses * spread) ** 2
    model = GaussianProcessRegressor(kernel, alpha=variances + JITTER)
    # One thread, so that the result does not depend on the number of cores. A weight that ends at
    # a bound is no fault.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled(known), (logarithms - logarithms.mean()) / spread)
        return np.asarray(model.predict(scaled(asked)))


def _scale(spread: float) -> float:
    """The scale of a feature; 1 where it is constant but for rounding."""
    return spread if spread > 1e-6 else 1.0


class Features:
    """What the model sees of the subnets of a space.

    Args:
        space: the space.
    """

    def __init__(self, space: Space) -> None:
        self._space, order = space, space.order
        self._weights = np.ones(space.architecture.dimensions.layers)
        if order.sensitivity is not None:
            self._weights = np.sqrt(order.sensitivity / order.sensitivity.mean())
        if space.fine:
            ranked = order.channels[None], order.groups, order.neurons
            self._channels, self._groups, self._neurons = map(FirstInOrder, ranked)

    def of(self, subnets: Sequence[Subnet], meanwhile: Callable[[], None]) -> list[Array]:
        """The features of subnets, each of shape [N, its numbers].

        Args:
            subnets: the subnets.
            meanwhile: called for each.
        """
        rows = []
        for subnet in subnets:
            rows.append(self._row(subnet))
            meanwhile()
        return [np.stack(parts) for parts in zip(*rows, strict=True)]

    def _row(self, subnet: Subnet) -> list[Array]:
        full, kept = self._space.architecture.dimensions, subnet.layers.astype(np.float64)
        row = [
            kept * self._weights,
            np.log([subnet.channels.mean()]),
            np.sqrt(subnet.kept_groups * kept / full.groups) * self._weights,
            np.sqrt(subnet.kept_neurons * kept / full.neurons) * self._weights,
            np.log([subnet.head_size or self._space.architecture.head_size]),
        ]
        if self._space.fine:
            row += [
                self._channels.share(subnet.channels[None]),
                self._groups.share(subnet.groups) * kept,
                self._neurons.share(subnet.neurons) * kept,
            ]
        return row


class FirstInOrder:
    """How much of what is kept is first in an order.

    A unit counts the more the earlier it comes, from 1 for the first in steps of 1/n.

    Args:
        ranks: of the units of each row, shape [R, n].
    """

    def __init__(self, ranks: NDArray[np.integer]) -> None:
        size = ranks.shape[1]
        self._worth = 1 - ranks / size
        self._best = np.concatenate([[1.0], np.cumsum(1 - np.arange(size) / size)])

    def share(self, masks: Mask) -> Array:
        """1 for a row that keeps the first of its units and no others, 0 for one that keeps none.

        Args:
            masks: what is kept, shape [R, n].

        Returns:
            Shape [R].
        """
        kept = np.count_nonzero(masks, axis=1)
        return np.asarray(np.einsum("rn,rn->r", self._worth, masks) / self._best[kept])
