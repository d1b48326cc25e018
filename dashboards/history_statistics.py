"""What the history of a search says: its winner, its progress, its operators, its failures."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evo.search.failures import reason_of


def scored(history: pd.DataFrame) -> pd.DataFrame:
    """The rows of candidates that were scored in full: neither screened out nor failed."""
    return history[history["status"] == "full"]


def has_nll(history: pd.DataFrame) -> bool:
    """Whether NLL was measured: by the proxies of fitness it is not."""
    return not scored(history)["nll"].isna().any()


def winner(history: pd.DataFrame) -> pd.Series | None:
    """The row of the best candidate, among equals that of the smallest id; None without any."""
    rows = scored(history)
    return None if rows.empty else rows.sort_values(["fitness", "candidate"]).iloc[0]


def best_of_layers(history: pd.DataFrame) -> pd.DataFrame:
    """The best of each number of layers.

    Returns:
        One row per number of layers of which a candidate was scored in full, by it: `layers`,
        `candidates` (how many were), and of the best `candidate`, `params` and `nll`.
    """
    ranked = scored(history).sort_values(["fitness", "candidate"])
    columns = {name: (name, "first") for name in ("candidate", "params", "nll")}
    return ranked.groupby("layers", as_index=False).agg(candidates=("candidate", "size"), **columns)


def best_so_far(history: pd.DataFrame) -> NDArray[np.float64]:
    """The lowest NLL up to each evaluation, nats per token, shape [N]; NaN before the first.

    Of candidates that were scored in full: on less text, NLL is another.
    """
    full = history["nll"].where(history["status"] == "full")
    return np.fmin.accumulate(full.to_numpy(np.float64))


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
        One row per operator, by name: `candidates`, `screened` (dropped at a rung), `failed`,
        `with_parents` (not failed), `better_than_parents` (scored in full, and than each of them),
        `new_bests` (the best of a generation, and better than all before it; the first generation
        has none), and, of those scored in full, `median_nll` and `best_nll`, nats per token.
    """
    fitness = dict(zip(history["candidate"], history["fitness"], strict=True))
    records = []
    credited = history.loc[_new_bests(history), "operator"].value_counts()
    for operator, rows in history.groupby("operator"):
        valid = scored(rows)
        bred = rows[(rows["status"] != "failed") & (rows["parents"].map(len) > 0)]
        better = [
            own < min(fitness[parent] for parent in parents)
            for own, parents in zip(scored(bred)["fitness"], scored(bred)["parents"], strict=True)
        ]
        records.append(
            {
                "operator": operator,
                "candidates": len(rows),
                "screened": int((rows["status"] == "screened").sum()),
                "failed": int((rows["status"] == "failed").sum()),
                "with_parents": len(bred),
                "better_than_parents": sum(better),
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
        if top["fitness"] < best:
            best = top["fitness"]
            if generation != 0:
                found.append(top.name)
    return found


def failures(history: pd.DataFrame) -> pd.DataFrame:
    """Why candidates failed.

    Returns:
        One row per reason, the most frequent first: `reason`, without the shard and the sequence
        it was met on; `candidates`; `example`, one of their ids.
    """
    failed = history[history["status"] == "failed"]
    reasons = failed["reason"].map(reason_of)
    table = failed.groupby(reasons)["candidate"].agg(candidates="size", example="min").reset_index()
    return table.sort_values(["candidates", "reason"], ascending=[False, True], ignore_index=True)
