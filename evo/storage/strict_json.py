"""JSON as every reader takes it: Python's own also writes NaN and Infinity, and no numpy number.

orjson refuses integers beyond 64 bits, which counts of FLOPs are, and lone surrogates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Convert a value to what JSON can express: numpy's numbers and arrays become Python's, and a
    number that is not finite becomes None."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's, which is not imported for nothing
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def loads(content: str | bytes) -> Any:
    """Read JSON.

    Raises:
        ValueError: it is none, or nested too deep to be read.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Write a value as JSON, after `plain`.

    Raises:
        TypeError: JSON cannot express an object in it.
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False)
