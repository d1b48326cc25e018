"""One generation while it is scored: which candidates go on from stage to stage, and which leave.

Decisions are taken when a stage is complete, and after each further shard of the last stage, so
they depend on what was scored, never on when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evo.algorithms.base import Observation, Proposal
from evo.genome.bins import Bin
from evo.genome.subnet import Subnet
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.rungs import Losses, estimates, survivors
from evo.search.screening.sequence_weights import Rows, SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.shard_score import ShardScore

CandidateShard = tuple[str, int]
"""A candidate's id and the number of a shard."""

Request = tuple[Proposal, int]
"""A candidate and the number of a shard on which it is to be scored."""


@dataclass(frozen=True)
class Screening:
    """How a search scores its candidates.

    Attributes:
        stages: how the text is cut; each generation rotates them.
        rungs: which candidates go on from stage to stage.
        weights: how much each sequence counts in the fitness.
    """

    stages: Stages
    rungs: Rungs
    weights: SequenceWeights

    def rotated(self, generation: int) -> Screening:
        """The same, with the stages of a generation."""
        return replace(self, stages=self.stages.rotated(generation))


@dataclass(frozen=True)
class EliteLosses:
    """The elites before a generation, with which its candidates are compared.

    Attributes:
        count: the most elites that a niche may have.
        last: fitness of the last elite of each niche that has `count`.
        losses: weighted losses of elites on all sequences, shape [N] each, by candidate.
        niches: niche of each of these elites.
        niche: gives the niche of a candidate.
    """

    count: int
    last: Mapping[int, float]
    losses: Mapping[str, Losses]
    niches: Mapping[str, int]
    niche: Callable[[Subnet], int]

    def relatives(self, proposal: Proposal) -> list[Losses]:
        """Losses of a candidate's parents, or, where no parent is an elite, of all elites of its
        niche, or of all there are where it has none."""
        parents = [self.losses[name] for name in proposal.parents if name in self.losses]
        niche = self.niche(proposal.subnet)
        own = [losses for name, losses in self.losses.items() if self.niches[name] == niche]
        return parents or own or list(self.losses.values())


class Generation:
    """The candidates of a generation, from their first shard to their result.

    Args:
        proposals: the candidates.
        screening: how they are scored, with the stages of this generation.
        elites: the elites before this generation.
        bin: candidates whose measured latency is outside fail.
        known: scores that a killed run left in the journal.
        look_up: gives the score of a candidate on some rows where an earlier run has it.

    Attributes:
        proposals: the candidates by their ids.
        dropped: candidates that left in the last `advance`, whose queued units are of no use.
    """

    def __init__(
        self,
        proposals: Sequence[Proposal],
        screening: Screening,
        elites: EliteLosses,
        bin: Bin,
        known: Mapping[CandidateShard, ShardScore],
        look_up: Callable[[str, Rows], ShardScore | None],
    ) -> None:
        self.proposals = {proposal.subnet.id: proposal for proposal in proposals}
        self.screening, self.stages = screening, screening.stages
        self.dropped: list[str] = []
        self._elites, self._bin, self._look_up = elites, bin, look_up
        self._niches = {name: elites.niche(one.subnet) for name, one in self.proposals.items()}
        self._scores: dict[str, dict[int, ShardScore]] = {name: {} for name in self.proposals}
        for (candidate, shard), score in known.items():
            if candidate in self._scores:
                self._scores[candidate][shard] = score
        self._running, self._stage = list(self.proposals), 0
        self._open: set[CandidateShard] = set()
        self._touched: set[str] = set()
        self._ended_at: dict[str, int] = {}

    @property
    def complete(self) -> bool:
        """Whether every candidate has its result."""
        return self._stage == len(self.stages.ends)

    def open_stage(self) -> list[Request]:
        """The candidates and shards of the present stage that have no score yet."""
        requests = [
            (candidate, shard)
            for candidate in self._running
            for shard in range(self.stages.ends[self._stage])
            if not self._has_score(candidate, shard)
        ]
        self._open = set(requests)
        self._touched = set(self._running)
        return [(self.proposals[candidate], shard) for candidate, shard in requests]

    def take(self, scores: Mapping[CandidateShard, ShardScore]) -> dict[CandidateShard, ShardScore]:
        """Take in scores; returns those that belong to this generation."""
        scores = {key: score for key, score in scores.items() if key[0] in self._scores}
        for (candidate, shard), score in scores.items():
            self._scores[candidate][shard] = score
            self._open.discard((candidate, shard))
            self._touched.add(candidate)
        return scores

    def advance(self) -> list[Request]:
        """Take the decisions that the scores so far allow.

        Returns:
            The candidates and shards that are to be scored next.
        """
        self.dropped = []
        requests: list[Request] = []
        self._abort()
        while not self.complete and not self._open:
            self._end_stage()
            if not self.complete:
                requests = self.open_stage()
                self._abort()
        return [
            (proposal, shard)
            for proposal, shard in requests
            if (proposal.subnet.id, shard) in self._open
        ]

    def result(self, candidate: str) -> list[tuple[int, ShardScore]]:
        """The shards, and the scores on them, of which a candidate's result is made."""
        return [
            (shard, self._scores[candidate][shard]) for shard in range(self._ended_at[candidate])
        ]

    def observations(self) -> dict[str, Observation]:
        """What is known of the fitness of each candidate that has not failed.

        A candidate that was scored on some sequences is compared on them with its relatives, as at
        a rung, or with what was scored in full in this generation where it has none. The variance
        of a sequence's estimate is taken to be the same for all candidates.
        """
        values = self.screening.weights.values
        ends = {
            name: end
            for name, end in self._ended_at.items()
            if not failures(self.result(name), self._bin)
        }
        exact = [name for name, end in ends.items() if end == len(self.stages.shards)]
        others = [self.losses_in_order(name) for name in exact]
        estimated = {
            name: estimates(
                self.losses(name, end),
                self.stages.sequences(end),
                self._elites.relatives(self.proposals[name]) or others,
            )
            for name, end in ends.items()
        }
        spreads = [each.var(ddof=1) for each in estimated.values() if each.size > 1]
        spread = float(np.mean(spreads)) if spreads else 0.0
        found = {}
        for name, each in estimated.items():
            (start, stop), score = self.stages.shards[0], self._scores[name][0]
            targets = score.tokens / (stop - start) * float(values.mean())
            variance = spread / each.size * (1 - each.size / values.size)
            found[name] = Observation(
                self.proposals[name].subnet,
                float(each.mean()) / targets,
                max(0.0, variance) / targets**2,
            )
        return found

    def left_at(self, candidate: str) -> int:
        """The number of the stage, from 1, at which a candidate got its result."""
        shards = self._ended_at[candidate]
        return 1 + next(place for place, end in enumerate(self.stages.ends) if end >= shards)

    def scores(self) -> list[tuple[str, Rows, ShardScore]]:
        """Every score of the generation: candidate, rows, score."""
        return [
            (candidate, self.stages.shards[shard], score)
            for candidate, scores in self._scores.items()
            for shard, score in scores.items()
        ]

    def losses(self, candidate: str, end: int) -> Losses:
        """Weighted losses of a candidate on each sequence of its first `end` shards."""
        scores = self._scores[candidate]
        return np.concatenate([self._weighted(scores[shard], shard) for shard in range(end)])

    def losses_in_order(self, candidate: str) -> Losses:
        """Weighted losses of a candidate on all sequences, in the text's order, shape [N]."""
        end = len(self.stages.shards)
        return self.losses(candidate, end)[np.argsort(self.stages.sequences(end))]

    def _has_score(self, candidate: str, shard: int) -> bool:
        if shard in self._scores[candidate]:
            return True
        score = self._look_up(candidate, self.stages.shards[shard])
        if score is not None:
            self._scores[candidate][shard] = score
        return score is not None

    def _end_stage(self) -> None:
        """All that run have scored the stage: the failed leave, then those that do not go on."""
        end = self.stages.ends[self._stage]
        for candidate in list(self._running):
            scores = [(shard, self._scores[candidate][shard]) for shard in range(end)]
            if failures(scores, self._bin):
                self._leave(candidate, end)
        self._stage += 1
        kept: set[str] = set()
        if not self.complete and self._running:
            seen = self.stages.sequences(end)
            losses = {
                name: estimates(
                    self.losses(name, end), seen, self._elites.relatives(self.proposals[name])
                )
                for name in self._running
            }
            elites = {name: float(values.mean()) for name, values in self._elites.losses.items()}
            niches = {**self._elites.niches, **self._niches}
            kept = survivors(self.screening.rungs, losses, elites, self._elites.count, niches)
        for candidate in list(self._running):
            if candidate not in kept:
                self._leave(candidate, end)

    def _abort(self) -> None:
        """Drop candidates that can be no elites any more: no loss is negative, so sums only grow.

        A candidate is looked at after each shard of the last stage, and compared with the elites
        of its niche before this generation.
        """
        last_stage = self._stage == len(self.stages.ends) - 1
        if not (self.screening.rungs.shares and last_stage):
            return
        weights = self.screening.weights.total
        for candidate in [name for name in self._running if name in self._touched]:
            fitness = self._elites.last.get(self._niches[candidate])
            if fitness is None:
                continue
            total = 0.0
            for shard, (start, stop) in enumerate(self.stages.shards):
                score = self._scores[candidate].get(shard)
                if score is None or score.failure is not None:
                    break
                total += math.fsum(self._weighted(score, shard))
                limit = fitness * score.tokens / (stop - start) * weights
                if total > limit * (1 + 1e-9):  # a rounding error must not decide
                    self._leave(candidate, shard + 1)
                    break
        self._touched = set()

    def _leave(self, candidate: str, end: int) -> None:
        """A candidate has its result: the scores on its first `end` shards."""
        self._ended_at[candidate] = end
        self._running.remove(candidate)
        self._open -= {(candidate, shard) for shard in range(len(self.stages.shards))}
        self.dropped.append(candidate)

    def _weighted(self, score: ShardScore, shard: int) -> Losses:
        return self.screening.weights.weighted(score.losses, self.stages.shards[shard])


def failures(scores: Sequence[tuple[int, ShardScore]], bin: Bin) -> list[str]:
    """Why a candidate with these scores failed; empty where it did not.

    A latency is known only when it is measured, so that a candidate may then lie outside its bin.
    """
    reasons = [f"shard {i}: {score.failure}" for i, score in scores if score.failure is not None]
    return reasons + [
        f"latency {bin.cost.shown(score.latency)} ms is outside the bin {bin.name}"
        for _, score in scores
        if score.latency is not None and score.latency not in bin
    ]
