"""What has ended the workers of a run, and whether they would do better at another try."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed
from ray.exceptions import RayTaskError
from ray.train import TrainingFailedError
from ray.train.v2.api.exceptions import WorkerGroupError

from evo.errors import UserError, first_line
from training.setup.ray_internals import is_death

PASSING = (ConnectionError, TimeoutError, torch.distributed.DistError)
"""Exceptions of a network, or of another worker's death, which may not come again."""


def first_failure(
    error: Exception, holds: Callable[[Exception], bool] = lambda failure: True
) -> Exception | None:
    """The first worker's exception for which a condition holds, as the worker raised it; None: no
    worker raised such a one."""
    failures = error.worker_failures.values() if isinstance(error, WorkerGroupError) else ()
    return next((failure for failure in failures if holds(failure)), None)


def may_pass(error: TrainingFailedError, workers: int) -> bool:
    """Whether another try may do better: a worker has died, or met what may pass.

    An exception of a worker's code comes again at every try. A worker whose neighbour has died
    raises a `RuntimeError`, and may be noticed first.

    Args:
        error: what has ended the workers.
        workers: their number.
    """
    passing = (*PASSING, RuntimeError) if workers > 1 else PASSING
    return first_failure(error) is None or any(
        first_failure(error, holds) is not None
        for holds in (is_death, lambda failure: isinstance(failure, passing))
    )


def reason(error: Exception) -> str:
    """What has ended a run, in one line: a worker's exception, if one raised it."""
    if isinstance(error, RayTaskError):
        error = error.cause or error
    error = first_failure(error) or error
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {first_line(error)}"
