"""The Ray that tests share, and Rays of a test's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

CPUS = 2
DEFAULTS: dict[str, Any] = {"address": "local", "include_dashboard": False, "log_to_driver": False}
_shared_address: str | None = None


def share_ray() -> None:
    """Make sure that the shared Ray runs and all its CPUs are free.

    The first file that needs it starts it. It is started anew after a file with a Ray of its own,
    and where a file has left CPUs taken: Ray Tune's trials give theirs back a while after its end.
    """
    global _shared_address
    if ray.is_initialized() and ray.get_runtime_context().gcs_address == _shared_address:
        deadline = time.monotonic() + 5
        while ray.available_resources().get("CPU", 0) < CPUS and time.monotonic() < deadline:
            time.sleep(0.1)
        if ray.available_resources().get("CPU", 0) == CPUS:
            return
    ray.shutdown()
    ray.init(**DEFAULTS, num_cpus=CPUS)
    _shared_address = ray.get_runtime_context().gcs_address


@contextmanager
def own_ray(**options: Any) -> Iterator[None]:
    """Start Ray, and end it.

    Args:
        options: what `ray.init` takes; by default a Ray on this machine without a dashboard.
    """
    ray.shutdown()
    ray.init(**DEFAULTS | options)
    try:
        yield
    finally:
        ray.shutdown()
