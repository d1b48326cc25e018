"""The actor that scores: a `Scorer` for each text over the shared weights of one teacher."""

from __future__ import annotations

import threading
from collections import OrderedDict

import ray
import torch

from evo.genome.operators.gate_swaps import GateGradients
from evo.search.shard_score import ShardScore
from workers.pool.stored_teacher import StoredTeacher, fetch_teacher
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings

TEXTS = 8
"""A worker keeps the scorers of so many texts, the latest."""


class ScoringWorker:
    """The actor. Ray names its process after this class."""

    def __init__(self, work: list[ray.ObjectRef]) -> None:
        """Does nothing yet: see `start`.

        Args:
            work: a reference to a pair: the `StoredTeacher` and the `ScoringSettings`; in a list,
                which Ray leaves alone.
        """
        self._work = work[0]
        self._scorers: OrderedDict[ray.ObjectRef, Scorer] = OrderedDict()
        self._making = threading.Lock()

    def start(self) -> None:
        """Fetch the weights. No part of `__init__`, so that an error keeps its kind."""
        work: tuple[StoredTeacher, ScoringSettings] = ray.get(self._work)
        stored, self._settings = work
        torch.set_num_threads(self._settings.threads)
        self._teacher = fetch_teacher(stored)

    def score(
        self, genome: bytes, candidate: str, text: list[ray.ObjectRef], start: int, stop: int
    ) -> ShardScore:
        """Score one candidate on one shard.

        Args:
            genome: as `Subnet.pack` makes it.
            candidate: the subnet's id.
            text: a reference to token ids, shape [N, T]; fetched when it is first met.
            start: the shard's first block.
            stop: the block after the shard's last.
        """
        return self._scorer(text[0]).score(genome, candidate, (start, stop))

    def gates(
        self, genome: bytes, text: list[ray.ObjectRef], start: int, stop: int
    ) -> GateGradients | ShardScore:
        """The gradient of a candidate's gates on some blocks; arguments as for `score`."""
        return self._scorer(text[0]).gates(genome, (start, stop))

    def _scorer(self, text: ray.ObjectRef) -> Scorer:
        with self._making:
            if text not in self._scorers:
                scorer = Scorer(self._teacher, ray.get(text), self._settings)
                self._teacher = scorer.teacher  # on a GPU, all scorers share one copy
                self._scorers[text] = scorer
                if len(self._scorers) > TEXTS:
                    self._scorers.popitem(last=False)
            self._scorers.move_to_end(text)
            return self._scorers[text]
