"""What the history of a search says: its winner, its progress, its operators, its failures."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def scored(history: pd.DataFrame) -> pd.DataFrame:
    """The rows whose scoring did not fail."""
    return history[history["status"] == "full"]


def winner(history: pd.DataFrame) -> pd.Series | None:
    """The row of the best candidate, among equals that of the smallest id; None without any."""
    rows = scored(history)
    return None if rows.empty else rows.sort_values(["nll", "candidate"]).iloc[0]


def best_so_far(history: pd.DataFrame) -> NDArray[np.float64]:
    """The lowest NLL up to each evaluation, nats per token, shape [N]; NaN before the first."""
    return np.fmin.accumulate(history["nll"].to_numpy(np.float64))


def generation_medians(history: pd.DataFrame) -> pd.DataFrame:
    """Each generation's middle.

    Returns:
        One row per generation that has a scored candidate: `evaluations` (up to its end) and
        `nll` (median, nats per token).
    """
    ends = history.groupby("generation").size().cumsum()
    medians = scored(history).groupby("generation")["nll"].median()
    return pd.DataFrame({"evaluations": ends.loc[medians.index], "nll": medians})


def operator_statistics(history: pd.DataFrame) -> pd.DataFrame:
    """Which operators made improvements.

    Returns:
        One row per operator, by name: `candidates`, `failed`, `with_parents` (scored, and made
        from scored candidates), `better_than_parents` (than each of them), `new_bests` (the best
        of a generation, and better than all before it; the first generation has none), and
        `median_nll` and `best_nll`, nats per token.
    """
    nll = dict(zip(history["candidate"], history["nll"], strict=True))
    records = []
    credited = history.loc[_new_bests(history), "operator"].value_counts()
    for operator, rows in history.groupby("operator"):
        valid = scored(rows)
        bred = [
            (own, min(nll[parent] for parent in parents))
            for own, parents in zip(valid["nll"], valid["parents"], strict=True)
            if len(parents)
        ]
        records.append(
            {
                "operator": operator,
                "candidates": len(rows),
                "failed": len(rows) - len(valid),
                "with_parents": len(bred),
                "better_than_parents": sum(own < parent for own, parent in bred),
                "new_bests": int(credited.get(operator, 0)),
                "median_nll": valid["nll"].median(),
                "best_nll": valid["nll"].min(),
            }
        )
    return pd.DataFrame(records)


def _new_bests(history: pd.DataFrame) -> list[Hashable]:
    """Index labels of the rows that were better than all generations before theirs."""
    found: list[Hashable] = []
    best = np.inf
    for generation, rows in scored(history).groupby("generation"):
        top = winner(rows)
        assert top is not None
        if top["nll"] < best:
            best = top["nll"]
            if generation != 0:
                found.append(top.name)
    return found


def failures(history: pd.DataFrame) -> pd.DataFrame:
    """Why candidates failed.

    Returns:
        One row per reason, the most frequent first: `reason`, without the shard it was met on;
        `candidates`; `example`, one of their ids.
    """
    failed = history[history["status"] == "failed"]
    reasons = failed["reason"].str.replace(r"^shard \d+: ", "", regex=True)
    table = failed.groupby(reasons)["candidate"].agg(candidates="size", example="min").reset_index()
    return table.sort_values(["candidates", "reason"], ascending=[False, True], ignore_index=True)
