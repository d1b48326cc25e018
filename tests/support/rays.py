"""A Ray of a test's own, whatever the tests before it have left running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray


@contextmanager
def own_ray(**options: Any) -> Iterator[None]:
    """Start Ray, and end it.

    Args:
        options: what `ray.init` takes; by default a Ray on this machine without a dashboard.
    """
    ray.shutdown()  # a Ray that `connect` has started goes on from file to file
    defaults = {"address": "local", "include_dashboard": False, "log_to_driver": False}
    ray.init(**defaults | options)
    try:
        yield
    finally:
        ray.shutdown()
