"""One search of a run: its strategy, its files, and the generation that is being scored. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from evo.algorithms.base import Proposal, Scored, Strategy, rank_key
from evo.genome.cost import forward_flops
from evo.genome.importance_proxy import Proxy
from evo.genome.operators.gate_swaps import GateGradients
from evo.genome.subnet import Subnet, Widths
from evo.search.ended_generation import EndedGeneration
from evo.search.gates import Gates, GateText
from evo.search.generation import CandidateShard, EliteLosses, Generation, Request, Screening
from evo.search.history.history import History, check_rng
from evo.search.history.journal import Asked
from evo.search.history.row import Row
from evo.search.progress import COLUMNS, Progress
from evo.search.rows import proxy_row, scored_row
from evo.search.score_cache import ScoreCache
from evo.search.screening.rungs import Losses
from evo.search.screening.sequence_weights import Rows
from evo.search.screening.stages import Stages
from evo.search.shard_score import ShardScore
from evo.storage.records import reading


class Search:
    """A search, resumed from its files: asks, has each generation scored, tells, writes down.

    `open_gates` says whose gradient is needed before the next generation can be proposed,
    `begin_generation` gives the candidates and shards of the first stage, `advance` those of the
    next stage once all scores of the present one are in.

    Args:
        name: `SPACE@BIN`.
        strategy: fresh.
        history: this search's, perhaps with generations in it.
        screening: how candidates are scored; each generation starts from another sequence.
        cache: scores of earlier runs, looked up before a unit is scored; None: all are scored.
        proxy: the fitness, where that needs no scoring; rows then have no NLL.
        gate_text: where gradients of gates are taken, with evolution in a fine space; None: no
            candidate is made by gradients.

    Attributes:
        cached_units: how many units came from the cache since the search was made.
        progress: after the last generation; None before the first has ended.
    """

    def __init__(
        self,
        name: str,
        strategy: Strategy,
        history: History,
        screening: Screening,
        cache: ScoreCache | None = None,
        proxy: Proxy | None = None,
        gate_text: GateText | None = None,
        limit: Callable[[Progress], str | None] = lambda _: None,
    ) -> None:
        self.name, self.strategy, self.history = name, strategy, history
        self.screening, self.cache, self.proxy = screening, cache, proxy
        self._limit = limit
        self.cached_units = 0
        self.progress: Progress | None = None
        self.last: EndedGeneration | None = None
        self._generation: Generation | None = None
        self._elite_losses: dict[str, Losses] = {}
        self.gates: Gates | None = None
        if gate_text is not None:
            state = (history.state or {}).get("gates")
            architecture = strategy.space.architecture
            self.gates = Gates(history.directory / "gates", gate_text, architecture, state)
        self._journal = history.journal(0)
        self._resume()

    def _resume(self) -> None:
        state = self.history.state
        if state is not None:
            self.history.journal(state["generation"] - 1).remove()  # a kill may have left it
            seen = self.history.frame(COLUMNS)
            with reading(self.history.state_file):
                check_rng(state["rng"])
                losses = state["elite_losses"]
                self._elite_losses = {name: np.array(values) for name, values in losses.items()}
                kept = self._scored(seen, {*state["elites"], *state.get("observed", ())})
                self.strategy.restore(state, kept, seen["candidate"])
            best = self.strategy.best
            self.progress = Progress.of(seen, best.fitness if best else None)
            self._look_at_limits(self.progress)
        if self.gates is not None:
            self.gates.forget_later(self.strategy.next_to_gate(self.gates.known))

    def _scored(self, seen: pd.DataFrame, names: set[str]) -> list[Scored]:
        """The candidates of the history that a strategy goes on from."""
        dimensions = self.strategy.space.architecture.dimensions
        rows = self.history.rows(seen[seen["candidate"].isin(names)])
        with reading(self.history.parquet):
            return [Scored(Subnet.unpack(row.genome, dimensions), _fitness(row)) for row in rows]

    def open_gates(self) -> list[tuple[Subnet, int, int]]:
        """Ask for the gradient that the next generation is to be proposed by.

        Returns:
            A candidate, the number of a part of its gradient, and the sequence that this is taken
            on; nothing where no gradient is needed.
        """
        strategy, gates = self.strategy, self.gates
        if gates is None or gates.hopeless or gates.asked_in(strategy.generation):
            return []
        candidate = strategy.next_to_gate(gates.known)
        if candidate is None:
            return []
        return [(candidate, *part) for part in gates.open(candidate, strategy.generation)]

    def take_gates(self, parts: Mapping[CandidateShard, GateGradients | ShardScore]) -> list[str]:
        """Take in parts of a gradient, by candidate and the number of the part.

        Returns:
            Candidates whose queued parts need not be computed.
        """
        return self.gates.take(parts) if self.gates is not None else []

    @property
    def awaits_gates(self) -> bool:
        """Whether a gradient is on its way."""
        return self.gates is not None and self.gates.awaited

    def begin_generation(self, meanwhile: Callable[[], None] = lambda: None) -> list[Request]:
        """Ask for the next generation.

        Args:
            meanwhile: called after each proposal.

        Returns:
            The candidates and shards of the first stage that have no score yet; none where the
            search has ended.
        """
        proposals = self._ask(meanwhile)
        if not proposals:
            return []
        if self.cache is not None:
            self.cache.refresh()
        self._journal.mend()
        self._generation = Generation(
            proposals,
            self.screening.rotated(self.strategy.generation),
            self._elites(),
            self.strategy.space.bin,
            self._journal.scores(),
            self._look_up,
        )
        return [] if self.proxy else self._generation.open_stage()

    def _ask(self, meanwhile: Callable[[], None]) -> list[Proposal]:
        """The candidates of the next generation, those that an earlier start has begun with."""
        strategy = self.strategy
        dimensions = strategy.space.architecture.dimensions
        journal = self._journal = self.history.journal(strategy.generation)
        asked = journal.asked(dimensions)
        if asked is not None:
            with reading(journal.asked_file):
                check_rng(asked.rng)
                strategy.repeat(asked.proposals, asked.rng)
            return asked.proposals
        if self.gates is not None:
            known = self.gates.known.items()
            strategy.gradients = {name: found for name, found in known if found is not None}
        proposals = strategy.ask(meanwhile)
        if proposals and (strategy.chooses or self.gates is not None):
            journal.keep_asked(Asked(strategy.state()["rng"], proposals))
        return proposals

    def take(self, scores: Mapping[CandidateShard, ShardScore]) -> None:
        """Write down scores; those of candidates of an earlier generation are of no use."""
        if self._generation is not None:
            self._journal.append(self._generation.take(scores))

    def advance(self) -> list[Request]:
        """Take the decisions that the scores so far allow.

        Returns:
            The candidates and shards that are to be scored next.
        """
        if self._generation is None or self.proxy:
            return []
        return self._generation.advance()

    def end_generation(self) -> Progress:
        """Tell the strategy, and fold the journal into the history."""
        generation = self._generation
        assert generation is not None
        rows = [self._row(generation, candidate) for candidate in sorted(generation.proposals)]
        observed = generation.observations() if self.strategy.chooses else {}
        self.strategy.tell(
            [
                Scored(
                    generation.proposals[row.candidate].subnet,
                    _fitness(row),
                    observed.get(row.candidate),
                )
                for row in rows
            ]
        )
        if self.progress is None and all(row.status == "failed" for row in rows):
            self.strategy.ended = "failed"  # nothing that comes later would be scored either
        best = self.strategy.best
        scored = pd.DataFrame([{name: getattr(row, name) for name in COLUMNS} for row in rows])
        self.progress = Progress.after(self.progress, scored, best.fitness if best else None)
        self._look_at_limits(self.progress)
        self.last = EndedGeneration.of(generation, rows, self.strategy.elites)
        self._keep_elite_losses(generation)
        losses = {name: values.tolist() for name, values in self._elite_losses.items()}
        state = {**self.strategy.state(), "elite_losses": losses}
        if self.gates is not None:
            state["gates"] = self.gates.state({one.subnet.id for one in self.strategy.elites})
        stale = self.gates.stale() if self.gates is not None else []
        self.history.fold(rows, state, stale)
        if self.cache is not None:
            self.cache.put(generation.scores())
        self._generation = None
        if self.ended is not None:
            self.history.flush()
        return self.progress

    def _look_at_limits(self, progress: Progress) -> None:
        if self.strategy.ended is None:
            self.strategy.ended = self._limit(progress)

    @property
    def ended(self) -> str | None:
        """Why the search has ended; None where it has not."""
        return self.strategy.ended

    @property
    def has_begun(self) -> bool:
        """Whether a generation has begun and not ended."""
        return self._generation is not None

    @property
    def complete(self) -> bool:
        """Whether every candidate of the generation has its result."""
        return self._generation is not None and bool(self.proxy or self._generation.complete)

    @property
    def dropped(self) -> list[str]:
        """Candidates that left in the last `advance`, whose queued units need not be scored."""
        return self._generation.dropped if self._generation is not None else []

    @property
    def stages(self) -> Stages:
        """The stages of the present generation."""
        return self.screening.stages.rotated(self.strategy.generation)

    @property
    def evaluations(self) -> int:
        """How many candidates have a row."""
        return self.progress.evaluations if self.progress else 0

    @property
    def tokens(self) -> int:
        """How many targets were scored for these rows."""
        return self.progress.tokens if self.progress else 0

    def best_row(self) -> Row | None:
        """The row of the best candidate; None where every candidate has failed."""
        best = self.strategy.best
        if best is None:
            return None
        places = self.history.frame(("candidate", "generation"))
        (row,) = self.history.rows(places[places["candidate"] == best.subnet.id])
        return row

    def mean_nll(self, scores: Iterable[tuple[int, ShardScore]]) -> float | None:
        """The NLL of a candidate scored on every shard of the text; None where it failed."""
        scores = list(scores)
        if any(score.failure is not None for _, score in scores):
            return None
        shards = self.screening.stages.shards
        return self.screening.weights.mean(
            (shards[shard], score.nll, score.tokens) for shard, score in scores
        )

    def scored_flops(self, sequence_length: int) -> int:
        """FLOPs of all evaluations so far: each candidate's forward pass on what it scored, and the
        gradients of gates."""
        architecture = self.strategy.space.architecture
        shapes = self.history.frame(("tokens", "channels", "groups", "neurons", "head_size"))
        flops = self.gates.flops if self.gates else 0
        for tokens, channels, groups, neurons, head_size in shapes.itertuples(index=False):
            widths = Widths(channels, tuple(groups.tolist()), tuple(neurons.tolist()), head_size)
            flops += tokens * forward_flops(architecture, widths, sequence_length)
        return flops

    def _row(self, generation: Generation, candidate: str) -> Row:
        proposal, space = generation.proposals[candidate], self.strategy.space
        number = self.strategy.generation
        if self.proxy is not None:
            return proxy_row(proposal, number, space, self.proxy)
        return scored_row(
            proposal, number, space, generation.result(candidate), generation.screening
        )

    def _look_up(self, candidate: str, rows: Rows) -> ShardScore | None:
        score = self.cache.get(candidate, rows) if self.cache is not None else None
        self.cached_units += score is not None
        return score

    def _elites(self) -> EliteLosses:
        niche, count = self.strategy.niche, self.strategy.elite_count
        members: dict[int, list[Scored]] = {}
        for elite in self.strategy.elites:
            members.setdefault(niche(elite.subnet), []).append(elite)
        last = {
            which: rank_key(elites[-1])[0]
            for which, elites in members.items()
            if len(elites) == count
        }
        niches = {one.subnet.id: which for which, elites in members.items() for one in elites}
        return EliteLosses(count, last, self._elite_losses, niches, niche)

    def _keep_elite_losses(self, generation: Generation) -> None:
        """Keep what the elites lost on each sequence: later candidates are compared with it."""
        before, self._elite_losses = self._elite_losses, {}
        if len(generation.stages.ends) == 1 or self.proxy is not None:
            return
        for elite in self.strategy.elites:
            name = elite.subnet.id
            known = before.get(name)
            self._elite_losses[name] = generation.losses_in_order(name) if known is None else known


def _fitness(row: Row) -> float | None:
    return row.fitness if row.status == "full" else None
