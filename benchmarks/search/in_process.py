"""Searches in this process, without Ray: for benchmarks that compare how candidates are proposed.

One thread each; every candidate is scored in full. Scores are remembered on disk, by teacher, text
and candidate, so that a benchmark that is run again, or was interrupted, costs little.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from evo.algorithms.base import Scored, Strategy
from evo.data.token_blocks import load_text
from evo.genome.ranking import Order
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.model.importance import importance_by_activation, importance_by_magnitude
from evo.model.layer_sensitivity import layer_sensitivity
from evo.search.gates import GateText
from evo.search.screening.stages import spread
from evo.search.search import Search
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings

TEXT, LENGTH = "stdlib:validation", 256
HELD_OUT, GATES = 128, 64
"""Sequences that a search does not see, and after them those for gradients of gates."""


@dataclass(frozen=True)
class Bench:
    """A teacher and a text to score its subnets on.

    Attributes:
        teacher: checkpoint directory.
        sequences: of the text, evenly spread.
        memory: directory of scores and orders.
    """

    teacher: Path
    sequences: int
    memory: Path

    @cached_property
    def checkpoint(self) -> checkpoint.Checkpoint:
        """The teacher."""
        return checkpoint.load(self.teacher)

    @cached_property
    def text(self) -> np.ndarray:
        """All of the text, token ids, shape [N, T], every beginning evenly spread."""
        teacher = self.checkpoint
        blocks = load_text(
            TEXT,
            tokenizer=teacher.tokenizer,
            vocabulary=teacher.vocabulary,
            sequence_length=LENGTH,
        ).blocks
        return blocks[spread(len(blocks))]

    @property
    def gate_text(self) -> GateText:
        """Where gradients of gates are taken."""
        start = self.sequences + HELD_OUT
        return GateText(start, start + GATES, LENGTH)

    @property
    def tokens(self) -> int:
        """Targets that a candidate is scored on."""
        return self.sequences * (LENGTH - 1)

    def order(self, kind: str) -> Order:
        """The teacher's order with the sensitivity of its layers, over all of the text."""
        path = self.memory / f"{self.checkpoint.hash}-{kind}.npz"
        if not path.is_file():
            if kind == "index":
                return Order.by_index(self.checkpoint.architecture.dimensions)
            torch.set_num_threads(1)
            model = self.checkpoint.model()
            found = (
                importance_by_magnitude(model)
                if kind == "magnitude"
                else importance_by_activation(model, self.text)
            )
            order = Order.by_importance(**vars(found))
            sensitivity = layer_sensitivity(model, order, self.text)
            replace(order, sensitivity=sensitivity).save(path)
        return Order.load(path)

    def fitness(self, subnet: Subnet) -> float:
        """Nats per token."""
        if subnet.id not in self._scores:
            score = self._scorer.score(subnet.pack(), subnet.id, (0, self.sequences))
            assert score.failure is None, score.failure
            self._scores[subnet.id] = sum(score.nll) / score.tokens
            line = f"{subnet.id} {self._scores[subnet.id]!r}\n".encode()
            file = os.open(self._path, os.O_APPEND | os.O_WRONLY | os.O_CREAT)
            os.write(file, line)  # one write: two processes' lines do not mix
            os.close(file)
        return self._scores[subnet.id]

    def score_generation(self, search: Search) -> int:
        """Run one generation of a search, a unit after the other, as a pool of one worker would.

        Returns:
            The sequences on which gradients were taken.
        """
        gated = search.open_gates()
        for candidate, part, row in gated:
            gradients = self._scorer.gates(candidate.pack(), (row, row + 1))
            search.take_gates({(candidate.id, part): gradients})
        requests = [*search.begin_generation(), *search.advance()]
        while requests:
            for proposal, shard in requests:
                subnet, rows = proposal.subnet, search.stages.shards[shard]
                score = self._scorer.score(subnet.pack(), subnet.id, rows)
                assert score.failure is None, score.failure
                search.take({(subnet.id, shard): score})
            requests = search.advance()
        if search.complete:
            search.end_generation()
        return len(gated)

    def held_out(self, subnet: Subnet) -> float:
        """Nats per token on `HELD_OUT` sequences that fitness is not measured on."""
        rows = (self.sequences, self.sequences + HELD_OUT)
        score = self._scorer.score(subnet.pack(), subnet.id, rows)
        assert score.failure is None, score.failure
        return sum(score.nll) / score.tokens

    def best_by_generation(self, strategy: Strategy) -> list[float]:
        """Run a search to its end; the best fitness so far after every generation."""
        bests = []
        while proposals := strategy.ask():
            strategy.tell([Scored(one.subnet, self.fitness(one.subnet)) for one in proposals])
            assert strategy.best is not None
            assert strategy.best.fitness is not None
            bests.append(strategy.best.fitness)
        return bests

    @cached_property
    def _scorer(self) -> Scorer:
        torch.set_num_threads(1)
        teacher = self.checkpoint
        blocks = np.ascontiguousarray(self.text[: self.gate_text.stop])
        settings = ScoringSettings(cache_bytes=0)  # none is scored twice
        return Scorer(teacher, blocks, settings)

    @property
    def _path(self) -> Path:
        return self.memory / f"{self.checkpoint.hash}-{self.sequences}.scores"

    @cached_property
    def _scores(self) -> dict[str, float]:
        self.memory.mkdir(parents=True, exist_ok=True)
        if not self._path.is_file():
            return {}
        lines = (line.split() for line in self._path.read_text().splitlines())
        return {name: float(value) for name, value in lines}
