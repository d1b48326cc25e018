"""Why candidates failed, counted."""

from __future__ import annotations

import re
from collections import Counter

import pandas as pd


def reason_of(text: str) -> str:
    """A reason without the shard and the sequence on which it was met."""
    text = re.sub(r"^shard \d+: ", "", text)
    return re.sub(r"\bsequence \d+\b", "a sequence", text)


def failures(history: pd.DataFrame) -> dict[str, int]:
    """How many candidates failed for each reason, the most frequent first.

    Args:
        history: rows with the columns `status` and `reason`.
    """
    reasons = Counter(map(reason_of, history["reason"][history["status"] == "failed"]))
    return dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
