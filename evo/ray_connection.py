"""Connect to Ray: the cluster that `RAY_ADDRESS` names, or one of our own for this process."""

from __future__ import annotations

import logging
import os

import ray
from ray.exceptions import RayError

from evo.errors import UserError, first_line
from evo.jobs.keeper import keep
from evo.termination import handlers_kept


def connect() -> None:
    """Make sure that Ray runs.

    In a Ray job, or with `RAY_ADDRESS` set, that is the cluster; else a Ray embedded in this
    process, which ends with it. Does nothing where Ray runs already.

    Raises:
        UserError: there is no cluster, it lets nobody in without a token, or none can be started.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else every worker prints a warning about a default that will change.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    try:
        with handlers_kept():
            if address:
                ray.init(log_to_driver=False, logging_level=logging.WARNING)
            else:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        keep()
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = f"cannot connect to Ray at {address}" if address else "a Ray does not start here"
        raise UserError(f"{where}: {first_line(error)}") from error
