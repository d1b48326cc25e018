"""The end of a run: its winners are extracted, its `summary.json` is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from evo.commands.search.inputs import SearchInputs
from evo.model.importance import activation_flops
from evo.model.layer_sensitivity import sensitivity_flops
from evo.search.failures import failures
from evo.search.history.row import perplexity
from evo.search.niches import best_of_niches
from evo.search.pareto_front import best_of_bins, pareto_front, points_of
from evo.search.search import Search
from evo.search.winner import save_candidate
from evo.storage.files import write_whole
from evo.storage.strict_json import dumps, plain

NICHE = ["layers", "candidate", "params", "nll", "perplexity"]
"""What the summary says of the best of a number of layers."""


def conclude(
    inputs: SearchInputs,
    searches: Sequence[Search],
    winners: Mapping[str, float | None],
) -> dict[str, Any]:
    """Extract the winners and write the summary.

    `winners` gives the NLL of those candidates whose rows have none.
    """
    concluded, points = [], []
    for search in searches:
        history = _with_nll(search.history.frame(), winners)
        concluded.append(_conclude(inputs, search, history, winners))
        points += points_of(search.name, history)
    summary: dict[str, Any] = {
        "teacher": str(inputs.teacher.path.resolve()),
        "text": inputs.text.summary(),
        "fitness": inputs.config.fitness,
        "chosen_by": f"{inputs.config.fitness} before training",
        "order": inputs.config.order,
        "order_flops": _order_flops(inputs),
        "searches": concluded,
        "best": [asdict(point) for point in best_of_bins(points)],
        "front": [asdict(point) for point in pareto_front(points)],
    }
    write_whole(inputs.config.out / "summary.json", dumps(summary, indent=2) + "\n")
    return plain(summary)


def _order_flops(inputs: SearchInputs) -> int:
    architecture, (sequences, length) = inputs.teacher.architecture, inputs.order_text.blocks.shape
    flops = 0
    if "activation" in (inputs.config.order, inputs.config.fitness):
        flops += activation_flops(architecture, sequences, length)
    if inputs.needs_sensitivity:
        flops += sensitivity_flops(architecture, sequences, length)
    return flops


def _conclude(
    inputs: SearchInputs,
    search: Search,
    history: pd.DataFrame,
    winners: Mapping[str, float | None],
) -> dict[str, Any]:
    space, bin = search.strategy.space, search.strategy.space.bin
    row = search.best_row()
    if row is not None and (nll := winners.get(row.candidate)) is not None:
        row = replace(row, nll=nll, perplexity=perplexity(nll))
    winner = search.history.directory / "winner"
    if row is not None and not winner.is_dir():
        save_candidate(
            inputs.teacher,
            row,
            winner,
            source=search.history.directory,
            bin=bin.name,
            seed=inputs.config.seed,
        )
    return {
        "name": search.name,
        "space": space.name,
        "bin": bin.name,
        "cost": bin.cost.kind,
        "cost_length": bin.cost.length,
        "low": bin.low,
        "high": bin.high,
        "candidate": row.candidate if row else None,
        "params": row.params if row else None,
        "fitness": row.fitness if row else None,
        "nll": row.nll if row else None,
        "perplexity": row.perplexity if row else None,
        "niches": best_of_niches(history)[NICHE].to_dict("records"),
        "evaluations": search.evaluations,
        "failures": failures(history),
        "scored_in_full": int((history["status"] == "full").sum()),
        "generations": search.strategy.generation,
        "tokens_scored": search.tokens,
        "flops": search.scored_flops(inputs.text.blocks.shape[1]),
        "seconds": math.fsum(history["seconds"]),
        "cached_units": search.cached_units,
        "ended": search.ended,
        "winner": str(winner.resolve()) if row else None,
    }


def _with_nll(history: pd.DataFrame, winners: Mapping[str, float | None]) -> pd.DataFrame:
    """A history with those NLLs that were measured after the search."""
    for candidate, nll in winners.items():
        if nll is not None:
            at = history["candidate"] == candidate
            history.loc[at, ["nll", "perplexity"]] = nll, perplexity(nll)
    return history
