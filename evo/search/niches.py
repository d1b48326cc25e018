"""The candidates of a history by their number of layers, whether these were its niches or not."""

from __future__ import annotations

import pandas as pd


def scored_in_full(history: pd.DataFrame) -> pd.DataFrame:
    """What was neither screened out nor failed, the best first."""
    full = history[history["status"] == "full"]
    return full.sort_values(["fitness", "candidate"])


def in_turns(history: pd.DataFrame) -> pd.DataFrame:
    """What was scored in full: the best of each number of layers, then the second bests, and so on;
    within a turn, the best first.

    Args:
        history: rows with the columns `layers`, `status`, `fitness` and `candidate`.
    """
    full = scored_in_full(history)
    turns = full.groupby("layers").cumcount()
    return full.loc[turns.sort_values(kind="stable").index]


def best_of_niches(history: pd.DataFrame) -> pd.DataFrame:
    """The best of each number of layers, of what was scored in full; the fewest layers first."""
    return scored_in_full(history).drop_duplicates("layers").sort_values("layers")
