"""Run a function once on the cluster, where a scoring worker would run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayTaskError

from workers.errors import raise_user_error
from workers.settings import ScoringSettings

T = TypeVar("T")


def on_worker(
    function: Callable[..., T], *arguments: Any, settings: ScoringSettings, gpus: float, cpus: int
) -> T:
    """What a function returns on a worker.

    Args:
        function: called there with the arguments, then the settings.
        arguments: large ones are put into the object store by Ray.
        settings: torch uses their number of threads there.
        gpus: share of a GPU that the worker reserves.
        cpus: cores that the worker reserves; 0 where all may belong to a named pool, which lives
            longer than this search.

    Raises:
        UserError: the function has raised one.
    """
    task = ray.remote(num_cpus=cpus, num_gpus=gpus)(_run)
    try:
        return ray.get(task.remote(function, settings, *arguments))
    except RayTaskError as error:
        raise_user_error(error)
        raise


def _run(function: Callable[..., T], settings: ScoringSettings, *arguments: Any) -> T:
    torch.set_num_threads(settings.threads)
    return function(*arguments, settings)
