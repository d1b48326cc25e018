"""The sources of a mixed text and how much each counts, as a config checks them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from evo.errors import UserError


def check_weights(sources: Sequence[str], weights: Sequence[float] | None) -> None:
    """Check that there is at least one source, each given once, and a weight for each or none.

    Raises:
        UserError: a source that is missing or given twice, or a weight that makes no sense.
    """
    if not sources or len(set(map(_place, sources))) < len(sources):
        raise UserError(f"--text {' '.join(sources)}: give at least one source, each once")
    if weights is None:
        return
    given = f"--text-weights {' '.join(f'{weight:g}' for weight in weights)}"
    if len(weights) != len(sources):
        raise UserError(f"{given}: give one for each of the {len(sources)} sources of --text")
    if not all(math.isfinite(weight) and weight > 0 for weight in weights):
        raise UserError(f"{given}: give numbers above 0")


def _place(source: str) -> str:
    """The same for the same path, however it is spelled."""
    if source.startswith(("stdlib:", "hf:")) or "\0" in source:
        return source
    return os.path.realpath(source)
