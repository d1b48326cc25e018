"""What the launch needs of Ray Train and its public interface does not offer (Ray 2.60.0).

`ControllerError` is public, the error that it carries when no worker could be started is not; the
text of that error says nothing that could be told apart from other failures.
"""

from __future__ import annotations

from ray.train import TrainingFailedError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError


def had_no_room(error: TrainingFailedError) -> bool:
    """Whether no worker was started, for want of room."""
    return isinstance(error, ControllerError) and isinstance(
        error.controller_failure, WorkerGroupStartupTimeoutError
    )
