"""Submits a job again whose driver was lost: an actor that outlives it, on any node."""

from __future__ import annotations

import logging
import os
import threading
import time

import ray

from evo.errors import UserError
from evo.jobs.cluster import Cluster
from evo.jobs.job import Attempt

logger = logging.getLogger("evo.jobs")

JOB, RETRIES, WATCH = "EVO_JOB", "EVO_JOB_RETRIES", "EVO_JOB_WATCH"
"""The environment of a command that was submitted: its job, how often it may be lost, and the
address of its dashboard."""

NAMESPACE = "evo-jobs"
LOOK_SECONDS = 5.0
"""Seconds between looks at the job."""


def keep() -> None:
    """See to it that this process' job is submitted again when it is lost; Ray runs already."""
    if link := os.environ.get(WATCH):
        logger.info("watch: %s", link)
    job, retries = os.environ.get(JOB), os.environ.get(RETRIES, "0")
    if job is None or retries == "0":
        return
    # Without a CPU of its own it fits on any node; after the loss of its node it starts anew.
    options = {"num_cpus": 0, "max_restarts": -1, "lifetime": "detached", "get_if_exists": True}
    ray.remote(Keeper).options(name=job, namespace=NAMESPACE, **options).remote(job, LOOK_SECONDS)


class Keeper:
    """Looks after a job until it has ended for good.

    Args:
        job: its name.
        seconds: between looks.
    """

    def __init__(self, job: str, seconds: float) -> None:
        self._job, self._seconds = job, seconds
        # A call from outside would go with the caller, and a restart calls nothing but this.
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        cluster = Cluster(ray.get_runtime_context().gcs_address)
        while self._goes_on(cluster):
            time.sleep(self._seconds)
        ray.kill(ray.get_actor(self._job, NAMESPACE), no_restart=True)

    def _goes_on(self, cluster: Cluster) -> bool:
        """Look at the job once, and submit it again if need be; whether to look again."""
        try:
            last = cluster.last(self._job)
            if last.was_lost and last.retries_left > 0:
                submit_again(cluster, last, last.retries_left - 1)
                return True
        except UserError as error:
            logger.warning("%s: %s", self._job, error)  # the head is busy, or starts anew
            return True
        return last.is_open


def submit_again(cluster: Cluster, last: Attempt, retries: int) -> str:
    """Submit a job once more; the command goes on where it was.

    Args:
        cluster: where it was.
        last: its last attempt.
        retries: how often it may be submitted again by itself.

    Returns:
        Ray's submission id.

    Raises:
        UserError: the cluster refuses it.
    """
    return cluster.submit(
        last.job,
        last.entrypoint,
        metadata=last.metadata,
        runtime_env=last.runtime_env,
        retries=retries,
        number=last.number + 1,
    )
