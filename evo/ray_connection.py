"""Connect to Ray: the cluster that `RAY_ADDRESS` names, or one of our own for this process."""

from __future__ import annotations

import logging
import os

import ray


def connect() -> None:
    """Make sure that Ray runs.

    In a Ray job, or with `RAY_ADDRESS` set, that is the cluster; else a Ray embedded in this
    process, which ends with it. Does nothing where Ray runs already.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else every worker prints a warning about a default that will change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
