"""One search of a run: its strategy, its files, and what is still to be scored. No Ray here."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from evo.cost import forward_flops, parameters
from evo.history import History, Row, Shard, perplexity
from evo.strategy import Proposal, Scored, Strategy
from evo.subnet import Subnet


@dataclass(frozen=True)
class Progress:
    """Where a search is, after a generation.

    Attributes:
        generation: the last one that was completed.
        evaluations: candidates scored.
        tokens: targets scored.
        best: NLL of the best candidate; None where all have failed.
        median: NLL in the middle of the last generation.
        failed: candidates of the last generation that failed.
    """

    generation: int
    evaluations: int
    tokens: int
    best: float | None
    median: float | None
    failed: int


class Lane:
    """A search between its generations, resumed from its files.

    Args:
        name: `SPACE@BIN`.
        strategy: fresh.
        history: of this search, perhaps with generations in it.
        shards: how many slices the text has.
    """

    def __init__(self, name: str, strategy: Strategy, history: History, shards: int) -> None:
        self.name, self.strategy, self.history, self.shards = name, strategy, history, shards
        self.evaluations = self.tokens = 0
        self._proposals: dict[str, Proposal] = {}
        self._scores: dict[str, dict[int, Shard]] = {}
        self.progress: Progress | None = None
        self._resume()

    def _resume(self) -> None:
        dimensions = self.strategy.space.architecture.dimensions
        rows = self.history.told()
        if self.history.state is not None:
            scored = [Scored(Subnet.unpack(row.genome, dimensions), _fitness(row)) for row in rows]
            self.strategy.restore(self.history.state, scored)
            last = max(row.generation for row in rows)
            self._count(rows)
            self._report([row for row in rows if row.generation == last], last)
        self.history.mend()

    def begin_generation(self) -> list[tuple[Proposal, int]]:
        """Ask for the next generation.

        Returns:
            The candidates and shards that are not in the journal yet; none where the search has
            ended. Where all are in the journal, `complete` is true at once.
        """
        self._proposals = {one.subnet.id: one for one in self.strategy.ask()}
        self._scores = {candidate: {} for candidate in self._proposals}
        for shard in self.history.journal():
            if shard.candidate in self._scores:
                self._scores[shard.candidate][shard.shard] = shard
        return [
            (proposal, shard)
            for candidate, proposal in self._proposals.items()
            for shard in range(self.shards)
            if shard not in self._scores[candidate]
        ]

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
        """Whether every shard of the generation is scored."""
        return bool(self._scores) and all(len(s) == self.shards for s in self._scores.values())

    def take(self, shards: list[Shard]) -> None:
        """Write down scored shards."""
        self.history.append(shards)
        for shard in shards:
            self._scores[shard.candidate][shard.shard] = shard

    def end_generation(self) -> Progress:
        """Tell the strategy, fold the journal into the history."""
        generation = self.strategy.generation
        rows = [self._row(self._proposals[c], self._scores[c]) for c in sorted(self._proposals)]
        self.strategy.tell(
            [Scored(self._proposals[row.candidate].subnet, _fitness(row)) for row in rows]
        )
        self.history.fold(rows, self.strategy.state())
        self._proposals, self._scores = {}, {}
        self._count(rows)
        return self._report(rows, generation)

    def best_row(self) -> Row | None:
        """The row of the best candidate; None where every one has failed."""
        best = self.strategy.best
        if best is None:
            return None
        return next(row for row in self.history.rows if row.candidate == best.subnet.id)

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

    def _count(self, rows: list[Row]) -> None:
        self.evaluations += len(rows)
        self.tokens += sum(row.tokens for row in rows)

    def _report(self, rows: list[Row], generation: int) -> Progress:
        valid = [row.nll for row in rows if row.status == "full"]
        best = self.strategy.best
        self.progress = Progress(
            generation=generation,
            evaluations=self.evaluations,
            tokens=self.tokens,
            best=best.fitness if best else None,
            median=statistics.median(valid) if valid else None,
            failed=len(rows) - len(valid),
        )
        return self.progress

    def _row(self, proposal: Proposal, scores: dict[int, Shard]) -> Row:
        subnet, widths = proposal.subnet, proposal.subnet.widths
        ordered = [scores[index] for index in range(self.shards)]
        failures = [f"shard {s.shard}: {s.failure}" for s in ordered if s.failure is not None]
        tokens = sum(shard.tokens for shard in ordered)
        nll = float("nan") if failures else sum(shard.nll for shard in ordered) / tokens
        return Row(
            candidate=subnet.id,
            generation=self.strategy.generation,
            operator=proposal.operator,
            parents=proposal.parents,
            params=parameters(self.strategy.space.architecture, widths),
            layers=widths.layers,
            channels=widths.channels,
            groups=widths.groups,
            neurons=widths.neurons,
            nll=nll,
            perplexity=nll if failures else perplexity(nll),
            tokens=tokens,
            seconds=sum(shard.seconds for shard in ordered),
            status="failed" if failures else "full",
            reason=failures[0] if failures else "",
            genome=subnet.pack(),
        )


def _fitness(row: Row) -> float | None:
    return row.nll if row.status == "full" else None
