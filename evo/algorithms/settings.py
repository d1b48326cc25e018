"""How long a search goes on, and where its offspring come from: settings without numpy."""

from __future__ import annotations

from dataclasses import dataclass

from evo.errors import UserError

PROPOSALS = 16
"""The default of --proposals with evolution: benchmarks/search/surrogate.md."""


@dataclass(frozen=True)
class Budget:
    """How long a search goes on.

    Attributes:
        population: candidates of a generation.
        generations: generations after the first, random one.
        patience: end after so many generations without a better best; None to never.

    Raises:
        UserError: a population below 1, or the like.
    """

    population: int = 50
    generations: int = 100
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.population < 1:
            raise UserError(f"a population of {self.population} cannot evolve: give at least 1")
        if self.generations < 0:
            raise UserError(f"{self.generations} generations cannot be: give 0 or more")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"a patience of {self.patience} generations cannot be: give at least 1")


@dataclass(frozen=True)
class Rates:
    """Where offspring come from.

    Attributes:
        elites: how many of the best candidates are parents.
        mutation: share of offspring that mutate one elite.
        crossover: share that recombine two elites; the rest are random samples.
        proposals: how many are drawn for each place of a generation for which a model of the
            fitness chooses; 1: all are taken as they come.
        by_model: share of the places for which the model chooses, but for those that swaps by
            gradients take. The rest are offspring as they come: a model is surest of what it
            knows, and a search that follows it alone may end in the first good region
            (benchmarks/search/surrogate.md).

    Raises:
        UserError: no elites, or shares that are no shares.
    """

    elites: int = 10
    mutation: float = 0.5
    crossover: float = 0.4
    proposals: int = 1
    by_model: float = 0.5

    def __post_init__(self) -> None:
        if self.elites < 1:
            raise UserError(f"{self.elites} elites have no offspring: give at least 1")
        if self.proposals < 1:
            raise UserError(f"--proposals {self.proposals} cannot be: give at least 1")
        shares = self.mutation >= 0 and self.crossover >= 0
        if not (shares and self.mutation + self.crossover <= 1):
            raise UserError(
                f"rates of {self.mutation} (mutation) and {self.crossover} (crossover) are no "
                "shares: give numbers from 0 whose sum is at most 1"
            )
