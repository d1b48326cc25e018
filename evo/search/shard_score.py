"""The score of a candidate on a shard: from the worker through the pool to journal and cache."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ShardScore:
    """What a candidate scored on one shard.

    Attributes:
        nll: negative log-likelihood of each sequence, summed over its targets in float64, nats;
            empty where the candidate failed.
        tokens: targets that were scored; 0 where the candidate failed.
        seconds: wall-clock time of a worker, extraction included where it was needed; 0 where the
            score comes from a cache.
        failure: why the candidate has no NLL; None where it has.
        divergence: KL divergence from the teacher, summed like the NLL; None where the fitness
            does not need it.
        latency: femtoseconds in which one token is decoded; None where it was not measured.
        gathering: the part of the seconds in which the candidate's weights were gathered from the
            teacher's; 0 where the worker had them.
    """

    nll: tuple[float, ...]
    tokens: int
    seconds: float
    failure: str | None = None
    divergence: tuple[float, ...] | None = None
    latency: int | None = None
    gathering: float = field(default=0.0, compare=False)

    @classmethod
    def failed(cls, reason: str, seconds: float = 0.0) -> ShardScore:
        """The score of a candidate that failed."""
        return cls((), 0, seconds, reason)

    @property
    def losses(self) -> tuple[float, ...]:
        """The summed loss of each sequence, of which the fitness is the mean."""
        return self.nll if self.divergence is None else self.divergence
