"""Why candidates failed, counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from evo.search.history import Row


def reason_of(text: str) -> str:
    """A reason without the shard and the sequence on which it was met."""
    text = re.sub(r"^shard \d+: ", "", text)
    return re.sub(r"\bsequence \d+\b", "a sequence", text)


def failures(rows: Iterable[Row]) -> dict[str, int]:
    """How many candidates failed for each reason, the most frequent first."""
    reasons = Counter(reason_of(row.reason) for row in rows if row.status == "failed")
    return dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])))
