"""A worker that scores nothing, in a module of its own, which is all that its actor imports."""

from __future__ import annotations

import sys

from evo.search.shard_score import ShardScore


class Simulated:
    """Tells whether its process knows torch."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self) -> None:
        """Nothing to fetch."""

    def score(self, genome: bytes, candidate: str, text: list, start: int, stop: int) -> ShardScore:
        """At once."""
        return ShardScore((0.0,), stop - start, 0.0, f"torch: {'torch' in sys.modules}")
