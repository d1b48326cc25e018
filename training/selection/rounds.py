"""Successive halving: how long finalists are trained, and who goes on.

Jamieson and Talwalkar 2016. A round ends when all its finalists have had the same number of steps,
so that who goes on depends on nothing but scores. Unlike there, what counts from the second round
on is not the loss so far but where it goes: networks that start behind and fall faster end ahead,
see benchmarks/ends_best/looks_ahead.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evo.errors import UserError

FURTHER = 0.5
"""A loss is extrapolated by this share of its fall in the last doubling of the steps."""


@dataclass(frozen=True)
class Round:
    """A round of a train-off.

    Attributes:
        finalists: number of finalists that are trained in it, unless some have diverged before.
        step: steps that each of them has had at its end, from the first on.
    """

    finalists: int
    step: int


@dataclass(frozen=True)
class Score:
    """A finalist at the end of a round.

    Attributes:
        nll: NLL of the validation text, in nats summed over targets; None where it diverged.
        reason: why it diverged.
    """

    nll: float | None
    reason: str | None = None


def plan_rounds(finalists: int, last: int) -> list[Round]:
    """The rounds that leave one finalist; each one doubles the steps.

    Args:
        finalists: number of finalists that begin, at least 2.
        last: steps at the end of the last round.

    Raises:
        UserError: the first round would have no step.
    """
    counts = [finalists]
    while counts[-1] > 2:
        counts.append((counts[-1] + 1) // 2)
    ends = [last // 2**doublings for doublings in reversed(range(len(counts)))]
    if ends[0] == 0:
        raise UserError(
            f"--share leaves {last} steps for {len(counts)} rounds, each of which doubles them: "
            "give fewer --finalists, a larger --share, more --tokens or fewer --batch-tokens"
        )
    return [Round(count, end) for count, end in zip(counts, ends, strict=True)]


def ranked(scores: Mapping[str, Score], before: Mapping[str, Score]) -> list[str]:
    """Finalists, the best first; those of equal scores by their ids, those that diverged last.

    Args:
        scores: at the end of a round.
        before: at the end of the round before it, of at least the same finalists; empty for the
            first round, where losses are not extrapolated.
    """

    def key(candidate: str) -> tuple[bool, float, str]:
        now, earlier = scores[candidate].nll, before.get(candidate, scores[candidate]).nll
        if now is None or earlier is None:
            return True, 0.0, candidate
        return False, now + FURTHER * (now - earlier), candidate

    return sorted(scores, key=key)


def survivors(scores: Mapping[str, Score], before: Mapping[str, Score]) -> list[str]:
    """The better half, rounded up, of a round's finalists, the best first.

    None that diverged is among them, and none at all if all have.

    Args:
        scores: as for `ranked`.
        before: as for `ranked`.
    """
    half = ranked(scores, before)[: (len(scores) + 1) // 2]
    return [candidate for candidate in half if scores[candidate].nll is not None]
