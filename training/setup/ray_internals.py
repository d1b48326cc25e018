"""The parts of Ray Train that the launch needs and its public interface lacks (Ray 2.55.0, 2.60.0).

`ControllerError` is public, but the error that it carries when no worker could be started is not,
and that error's text does not distinguish it from other failures. Nor is the class public of what a
worker's health check finds.
"""

from __future__ import annotations

from ray.exceptions import RayError, RayTaskError
from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import RayTrainError, WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError


def had_no_room(error: TrainingFailedError) -> bool:
    """Whether no worker was started because the cluster has no room."""
    return isinstance(error, ControllerError) and isinstance(
        error.controller_failure, WorkerGroupStartupTimeoutError
    )


def is_death(failure: BaseException) -> bool:
    """Whether a failure is of a worker's process or node, and not an exception of its code."""
    told = isinstance(failure, RayError | RayTrainError)
    return told and not isinstance(failure, RayTaskError | TrainingFailedError)
