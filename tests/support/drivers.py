"""Commands in processes of their own, on the Ray that runs here, so that they can be killed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any

import ray

CONTEXT = multiprocessing.get_context("forkserver")


def kill_driver(
    run: Callable[..., Any], config: Any, *, when: Callable[[], bool], **options: Any
) -> None:
    """Start a command, and kill its process once a condition holds.

    The process has what this module imports already, and so starts within a second.

    Args:
        run: a function of a module.
        config: its argument.
        options: its keyword arguments.
        when: true once the process is to die; it must not end before.
    """
    CONTEXT.set_forkserver_preload(["tests.support.alone"])
    ray_address = ray.get_runtime_context().gcs_address
    process = CONTEXT.Process(target=_run, args=(run, config, options, ray_address))
    process.start()
    try:
        while not when():
            assert process.is_alive(), "it ended before"
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()


def _run(run: Callable[..., Any], config: Any, options: dict[str, Any], ray_address: str) -> None:
    os.environ |= {"RAY_ADDRESS": ray_address, "RAY_AUTH_MODE": "token"}
    run(config, **options)
