"""A worker that sleeps as long as a GPU would take, in a module of its own: all it imports."""

from __future__ import annotations

import random
import sys
import time

from evo.search.shard_score import ShardScore

SEQUENCE_SECONDS = 0.025
"""Of a sequence of 2,048 tokens, so that a unit of 16,384 takes 200 ms."""

TARGETS = 2047


class SimulatedWorker:
    """Has the methods of `ScoringWorker`. A candidate's NLL is drawn by its id."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        """Nothing to fetch."""
        if "torch" in sys.modules:
            raise RuntimeError("a simulated worker needs no torch, but something has imported it")

    def score(self, genome: bytes, candidate: str, text: list, start: int, stop: int) -> ShardScore:
        """An NLL for each sequence, after as long as they take together."""
        seconds = (stop - start) * SEQUENCE_SECONDS
        time.sleep(seconds)
        nll = tuple(TARGETS * _nll(candidate, sequence) for sequence in range(start, stop))
        return ShardScore(nll, TARGETS * (stop - start), seconds)


def _nll(candidate: str, sequence: int) -> float:
    """Nats per token: candidates differ more than what one loses on different sequences does."""
    mean = random.Random(candidate).gauss(4.0, 0.3)
    return abs(mean + random.Random(f"{candidate} {sequence}").gauss(0.0, 0.1))
