"""JSON as every reader takes it: Python's own also writes NaN and Infinity, and no numpy number."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """A value as JSON can say it: numpy's numbers and arrays are Python's, and a number that is
    not finite is None."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):  # numpy's, which is not imported for nothing
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumps(value: Any, *, indent: int | None = None) -> str:
    """A plain value's JSON.

    Raises:
        TypeError: something that JSON has no word for.
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False)
