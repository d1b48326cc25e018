"""Random search: the baseline that every other algorithm is measured against.

Random Search for Hyper-Parameter Optimization (Bergstra and Bengio, JMLR 2012) made it the
baseline of the field.
"""

from __future__ import annotations

from collections.abc import Sequence

from evo.algorithms.base import Proposal, Scored, Strategy


class RandomSearch(Strategy):
    """Nothing but samples."""

    def _propose(self) -> Proposal:
        return Proposal(self.space.sample(self.rng), "sample")

    def _learn(self, scored: Sequence[Scored]) -> None:
        pass
