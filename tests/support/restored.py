"""A strategy that goes on from its state, as a search that was killed does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evo.algorithms.base import Scored, Strategy


def restore(strategy: Strategy, state: dict[str, Any], scored: Sequence[Scored]) -> None:
    """Give a strategy its state, the candidates that this names, in another order, and all ids."""
    named = {*state["elites"], *state.get("observed", ())}
    kept = [Scored(one.subnet, one.fitness) for one in scored if one.subnet.id in named]
    strategy.restore(state, kept[::-1], [one.subnet.id for one in scored])
