"""The stages of scoring as the user writes them: settings without numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from evo.errors import UserError


@dataclass(frozen=True)
class Rungs:
    """The stages of scoring.

    Attributes:
        shares: of the text's sequences, of each stage before the last, increasing; the last is
            all of the text. Without any, every candidate is scored in full, as in the paper.
        survivors: the largest share of a stage's candidates that goes on to the next; while there
            are fewer elites than there may be, as many as are missing may.
        confidence: of the one-sided test by which a candidate that is worse than the cut-off is
            dropped; 1 never drops one by it.

    Raises:
        UserError: values that make no sense.
    """

    shares: tuple[float, ...] = ()
    survivors: float = 0.125
    confidence: float = 0.9

    def __post_init__(self) -> None:
        if any(not 0 < share < 1 for share in self.shares) or list(self.shares) != sorted(
            set(self.shares)
        ):
            raise UserError(
                f"rungs of {' '.join(f'{share:g}' for share in self.shares)} of the text cannot "
                "be: give increasing shares between 0 and 1, such as 1/32 1/8, or full"
            )
        if not 0 < self.survivors <= 1:
            raise UserError(f"{self.survivors:g} survivors: give a share above 0, at most 1")
        if not 0.5 <= self.confidence <= 1:
            raise UserError(f"a rung confidence of {self.confidence:g}: give one from 0.5 to 1")

    @classmethod
    def parse(cls, texts: Sequence[str], survivors: float, confidence: float) -> Rungs:
        """Rungs as the user writes them: `full`, or shares such as `1/32`, `3%` or `0.03`.

        Raises:
            UserError: a share that is none.
        """
        if list(texts) == ["full"]:
            return cls((), survivors, confidence)
        try:
            shares = [
                Fraction(text[:-1]) / 100 if text.endswith("%") else Fraction(text)
                for text in texts
            ]
        except (ValueError, ZeroDivisionError):
            raise UserError(
                f"--rungs {' '.join(texts)}: give shares of the text such as 1/32 1/8, or full"
            ) from None
        return cls(tuple(float(share) for share in shares), survivors, confidence)
