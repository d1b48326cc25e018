"""One search of a run: its strategy, its files, and what is still to be scored. No Ray here."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evo.algorithms.base import Proposal, Scored, Strategy
from evo.genome.cost import forward_flops, parameters
from evo.genome.importance_proxy import Proxy
from evo.genome.subnet import Subnet
from evo.search.history import History, Row, Shard, Status, perplexity
from evo.search.rung_settings import Rungs
from evo.search.rungs import Losses, Stages, estimates, survivors
from evo.search.score_cache import CachedScore, ScoreCache


@dataclass(frozen=True)
class Progress:
    """Where a search is, after a generation.

    Attributes:
        generation: the last one that was completed.
        evaluations: candidates scored, in full or not.
        tokens: targets scored.
        best: fitness of the best candidate; None where all have failed.
        median: fitness in the middle of those scored in full, of the last generation that has any
            (others were scored on other text from one generation to the next).
        failed: candidates of the last generation that failed.
        screened: those that were dropped at a rung.
    """

    generation: int
    evaluations: int
    tokens: int
    best: float | None
    median: float | None
    failed: int
    screened: int


class Lane:
    """A search between its generations, resumed from its files.

    A generation is scored in stages: `begin_generation` gives the units of the first, `advance`
    those of the next, once all before it are in. Decisions are taken in between and nowhere else,
    so they depend on what was scored, never on when.

    Args:
        name: `SPACE@BIN`.
        strategy: fresh.
        history: of this search, perhaps with generations in it.
        stages: how the text is cut; in each generation from another sequence on.
        rungs: who goes on from stage to stage.
        weights: of each sequence of the text in the fitness, shape [N]; by default all alike.
        cache: of scores, looked up before a unit is scored; None: all are scored.
        proxy: the fitness, where that needs no scoring: there are no units then, and rows have no
            NLL.

    Attributes:
        cached_units: how many units came from the cache, since the lane was made.
        stages: of the present generation, or the last one.
    """

    def __init__(
        self,
        name: str,
        strategy: Strategy,
        history: History,
        stages: Stages,
        rungs: Rungs,
        weights: NDArray[np.float64] | None = None,
        cache: ScoreCache | None = None,
        proxy: Proxy | None = None,
    ) -> None:
        self.name, self.strategy, self.history = name, strategy, history
        self.cache, self.cached_units = cache, 0
        self.proxy = proxy
        self._whole, self.stages, self.rungs = stages, stages, rungs
        self.weights = np.ones(stages.sizes[-1]) if weights is None else weights
        self.evaluations = self.tokens = 0
        self.dropped: list[str] = []
        """Candidates that left in the last `advance`, whose queued units need not be scored."""
        self._proposals: dict[str, Proposal] = {}
        self._scores: dict[str, dict[int, Shard]] = {}
        self._stage = 0
        self._running: list[str] = []
        self._open: set[tuple[str, int]] = set()
        self._touched: set[str] = set()
        self._ended_at: dict[str, int] = {}
        self._elite_losses: dict[str, Losses] = {}
        self.progress: Progress | None = None
        self._resume()

    def _resume(self) -> None:
        dimensions = self.strategy.space.architecture.dimensions
        rows = self.history.told()
        if self.history.state is not None:
            scored = [Scored(Subnet.unpack(row.genome, dimensions), _fitness(row)) for row in rows]
            self.strategy.restore(self.history.state, scored)
            known = self.history.state["elite_losses"]
            self._elite_losses = {name: np.array(one) for name, one in known.items()}
            last = max(row.generation for row in rows)
            self._count(rows)
            self._report([row for row in rows if row.generation == last], last)
        self.history.mend()

    def begin_generation(
        self, meanwhile: Callable[[], None] = lambda: None
    ) -> list[tuple[Proposal, int]]:
        """Ask for the next generation.

        Args:
            meanwhile: called after each proposal.

        Returns:
            The candidates and shards of the first stage that are not in the journal yet; none
            where the search has ended.
        """
        self.stages = self._whole.turned(self.strategy.generation)
        self._proposals = {one.subnet.id: one for one in self.strategy.ask(meanwhile)}
        self._scores = {candidate: {} for candidate in self._proposals}
        self._running, self._ended_at, self._stage = list(self._proposals), {}, 0
        if self.proxy is not None:
            self._stage = len(self.stages.ends)
            return []
        for shard in self.history.journal():
            if shard.candidate in self._scores:
                self._scores[shard.candidate][shard.shard] = shard
        if self.cache is not None:
            self.cache.refresh()
        return self._open_stage()

    def advance(self) -> list[tuple[Proposal, int]]:
        """Take the decisions that the scores so far allow.

        Returns:
            The candidates and shards that are to be scored next and are not in the journal yet.
        """
        self.dropped = []
        wanted: list[tuple[Proposal, int]] = []
        self._abort()
        while self.has_begun and not self.complete and not self._open:
            self._end_stage()
            if not self.complete:
                wanted = self._open_stage()
                self._abort()
        return [one for one in wanted if (one[0].subnet.id, one[1]) in self._open]

    @property
    def ended(self) -> str | None:
        """Why the search has ended; None where it has not."""
        return self.strategy.ended

    @property
    def has_begun(self) -> bool:
        """Whether a generation has begun and not ended."""
        return bool(self._proposals)

    @property
    def complete(self) -> bool:
        """Whether every candidate of the generation has its result."""
        return bool(self._proposals) and self._stage == len(self.stages.ends)

    def take(self, shards: list[Shard]) -> None:
        """Write down scored shards; those of candidates that have their result are of no use."""
        shards = [shard for shard in shards if shard.candidate in self._scores]
        self.history.append(shards)
        for shard in shards:
            self._scores[shard.candidate][shard.shard] = shard
            self._open.discard((shard.candidate, shard.shard))
            self._touched.add(shard.candidate)

    def end_generation(self) -> Progress:
        """Tell the strategy, fold the journal into the history."""
        generation = self.strategy.generation
        rows = [self._row(candidate) for candidate in sorted(self._proposals)]
        self.strategy.tell(
            [Scored(self._proposals[row.candidate].subnet, _fitness(row)) for row in rows]
        )
        self._keep_elite_losses()
        known = {name: one.tolist() for name, one in self._elite_losses.items()}
        self.history.fold(rows, {**self.strategy.state(), "elite_losses": known})
        self._share_scores()
        self._proposals, self._scores = {}, {}
        self._count(rows)
        return self._report(rows, generation)

    def best_row(self) -> Row | None:
        """The row of the best candidate; None where every one has failed."""
        best = self.strategy.best
        if best is None:
            return None
        return next(row for row in self.history.rows if row.candidate == best.subnet.id)

    def mean_nll(self, shards: list[Shard]) -> float | None:
        """Of a candidate scored on every shard of the first generation's; None where it failed."""
        if any(shard.failure is not None for shard in shards):
            return None
        return self._mean(self._whole, shards, [shard.nll for shard in shards])

    def scored_flops(self, sequence_length: int) -> int:
        """FLOPs of all evaluations so far: each candidate's forward pass on what it scored."""
        space = self.strategy.space
        dimensions = space.architecture.dimensions
        return sum(
            row.tokens
            * forward_flops(
                space.architecture, Subnet.unpack(row.genome, dimensions).widths, sequence_length
            )
            for row in self.history.told()
        )

    # Stages

    def _open_stage(self) -> list[tuple[Proposal, int]]:
        """What the present stage still needs."""
        wanted = [
            (candidate, shard)
            for candidate in self._running
            for shard in range(self.stages.ends[self._stage])
            if shard not in self._scores[candidate] and not self._look_up(candidate, shard)
        ]
        self._open = set(wanted)
        self._touched = set(self._running)
        return [(self._proposals[candidate], shard) for candidate, shard in wanted]

    def _end_stage(self) -> None:
        """All that run have scored the stage: the failed leave, then those that do not go on."""
        end = self.stages.ends[self._stage]
        for candidate in list(self._running):
            if self._failures([self._scores[candidate][shard] for shard in range(end)]):
                self._leave(candidate, end)
        self._stage += 1
        kept: set[str] = set()
        if self._stage < len(self.stages.ends) and self._running:
            seen = self.stages.sequences(end)
            losses = {
                candidate: estimates(self._losses(candidate, end), seen, self._relatives(candidate))
                for candidate in self._running
            }
            elites = {name: float(one.mean()) for name, one in self._elite_losses.items()}
            kept = survivors(self.rungs, losses, elites, self.strategy.places)
        for candidate in list(self._running):
            if candidate not in kept:
                self._leave(candidate, end)

    def _abort(self) -> None:
        """Drop who can be no elite any more: losses are not negative, so sums only grow.

        Looked at after each shard of the last stage, against the elites of before this generation.
        """
        leaders = self.strategy.leaders
        last_stage = self._stage == len(self.stages.ends) - 1
        if not (self.rungs.shares and last_stage and len(leaders) == self.strategy.places):
            return
        fitness = leaders[-1].fitness
        assert fitness is not None
        for candidate in [one for one in self._running if one in self._touched]:
            total = 0.0
            for shard, (start, stop) in enumerate(self.stages.shards):
                score = self._scores[candidate].get(shard)
                if score is None or score.failure is not None:
                    break
                total += math.fsum(self._weighted(score))
                limit = fitness * score.tokens / (stop - start) * math.fsum(self.weights)
                if total > limit * (1 + 1e-9):  # a rounding error must not decide
                    self._leave(candidate, shard + 1)
                    break
        self._touched = set()

    def _leave(self, candidate: str, end: int) -> None:
        """A candidate has its result: what it scored on its first shards."""
        self._ended_at[candidate] = end
        self._running.remove(candidate)
        self._open -= {(candidate, shard) for shard in range(len(self.stages.shards))}
        self.dropped.append(candidate)

    # Scores

    def _look_up(self, candidate: str, shard: int) -> bool:
        """Take a unit from the cache, if it is there."""
        found = self.cache and self.cache.get(candidate, *self.stages.shards[shard])
        if not found:
            return False
        self._scores[candidate][shard] = Shard(
            candidate, shard, found.nll, found.tokens, 0.0, divergence=found.divergence
        )
        self.cached_units += 1
        return True

    def _share_scores(self) -> None:
        """Leave what this generation scored to other runs."""
        if self.cache is not None:
            self.cache.put(
                CachedScore(
                    one.candidate,
                    *self.stages.shards[one.shard],
                    nll=one.nll,
                    tokens=one.tokens,
                    divergence=one.divergence,
                )
                for scores in self._scores.values()
                for one in scores.values()
                if one.failure is None
            )

    def _weighted(self, shard: Shard) -> Losses:
        """Weighted losses of a shard's sequences."""
        return np.array(shard.losses) * self.weights[slice(*self.stages.shards[shard.shard])]

    def _losses(self, candidate: str, end: int) -> Losses:
        """Weighted losses of a candidate on each sequence of its first shards."""
        scores = self._scores[candidate]
        return np.concatenate([self._weighted(scores[shard]) for shard in range(end)])

    def _relatives(self, candidate: str) -> list[Losses]:
        """Losses on all sequences: of a candidate's parents, or, where it has none, all elites."""
        parents = self._proposals[candidate].parents
        known = [self._elite_losses[one] for one in parents if one in self._elite_losses]
        return known or list(self._elite_losses.values())

    def _keep_elite_losses(self) -> None:
        """What the elites lost on each sequence: later candidates are compared to it."""
        before, self._elite_losses = self._elite_losses, {}
        if len(self.stages.ends) == 1 or self.proxy is not None:
            return
        end = len(self.stages.shards)
        in_order = np.argsort(self.stages.sequences(end))
        for leader in self.strategy.leaders:
            name = leader.subnet.id
            if name in before:
                self._elite_losses[name] = before[name]
            else:
                self._elite_losses[name] = self._losses(name, end)[in_order]

    # Rows

    def _count(self, rows: list[Row]) -> None:
        self.evaluations += len(rows)
        self.tokens += sum(row.tokens for row in rows)

    def _report(self, rows: list[Row], generation: int) -> Progress:
        statuses = Counter(row.status for row in rows)
        best = self.strategy.best
        full = [row for row in self.history.told() if row.status == "full"]
        newest = max((row.generation for row in full), default=None)
        fitness = [row.fitness for row in full if row.generation == newest]
        self.progress = Progress(
            generation=generation,
            evaluations=self.evaluations,
            tokens=self.tokens,
            best=best.fitness if best else None,
            median=statistics.median(fitness) if fitness else None,
            failed=statuses["failed"],
            screened=statuses["screened"],
        )
        return self.progress

    def _row(self, candidate: str) -> Row:
        proposal = self._proposals[candidate]
        end = 0 if self.proxy is not None else self._ended_at[candidate]
        space = self.strategy.space
        subnet, widths = proposal.subnet, proposal.subnet.widths
        scores = [self._scores[candidate][shard] for shard in range(end)]
        failures = self._failures(scores)
        measured = [one.latency for one in scores if one.latency is not None]
        status: Status = "full" if end == len(self.stages.shards) else "screened"
        fitness = nll = math.nan
        if failures:
            status = "failed"
        elif self.proxy is not None:
            status, fitness = "full", self.proxy.fitness(subnet)
        else:
            fitness = self._mean(self.stages, scores, [score.losses for score in scores])
            nll = self._mean(self.stages, scores, [score.nll for score in scores])
        return Row(
            candidate=subnet.id,
            generation=self.strategy.generation,
            operator=proposal.operator,
            parents=proposal.parents,
            params=parameters(space.architecture, widths),
            cost=measured[0] if measured else space.bin.cost.of(space.architecture, widths),
            layers=widths.layers,
            channels=widths.channels,
            groups=widths.groups,
            neurons=widths.neurons,
            fitness=fitness,
            nll=nll,
            perplexity=perplexity(nll),
            tokens=sum(score.tokens for score in scores),
            seconds=sum(score.seconds for score in scores),
            status=status,
            reason=failures[0] if failures else "",
            genome=subnet.pack(),
        )

    def _failures(self, scores: list[Shard]) -> list[str]:
        """Why a candidate is none of the search's; a latency is known only when it is measured."""
        bin = self.strategy.space.bin
        failures = [f"shard {s.shard}: {s.failure}" for s in scores if s.failure is not None]
        return failures + [
            f"latency {bin.cost.shown(one.latency)} ms is outside the bin {bin.name}"
            for one in scores
            if one.latency is not None and one.latency not in bin
        ]

    def _mean(self, stages: Stages, scores: list[Shard], losses: list[tuple[float, ...]]) -> float:
        """Weighted mean per target, exactly rounded: the same for every cut into shards."""
        total: list[float] = []
        targets: list[float] = []
        for score, sequences in zip(scores, losses, strict=True):
            start, stop = stages.shards[score.shard]
            weights = self.weights[start:stop]
            total += (np.array(sequences) * weights).tolist()
            targets += (weights * (score.tokens / (stop - start))).tolist()
        return math.fsum(total) / math.fsum(targets)


def _fitness(row: Row) -> float | None:
    return row.fitness if row.status == "full" else None
