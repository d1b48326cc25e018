"""`evo logs`, `evo pause`, `evo resume` and `evo stop`."""

from __future__ import annotations

from evo.commands.jobs.config import (
    LogsConfig,
    PauseConfig,
    ResumeConfig,
    StopConfig,
)
from evo.errors import UserError


def logs(config: LogsConfig) -> None:
    """Print what the last attempt of a job has said.

    Raises:
        UserError: no such job.
    """
    from evo.jobs.cluster import Cluster

    cluster = Cluster(config.address)
    last = cluster.last(config.job)
    if config.follow:
        cluster.follow(last, lambda text: print(text, end="", flush=True))
    else:
        print(cluster.log(last), end="")


def pause(config: PauseConfig) -> None:
    """End a job so that it can go on.

    Raises:
        UserError: no such job, or it does not run.
    """
    from evo.jobs.cluster import Cluster

    cluster = Cluster(config.address)
    last = cluster.last(config.job)
    if not last.is_open:
        raise UserError(f"job {config.job} does not run: it is {last.state}")
    cluster.stop(last)
    print(f"job {config.job} is paused: `evo resume {config.job}` goes on with it")


def resume(config: ResumeConfig) -> None:
    """Go on with a job.

    Raises:
        UserError: no such job, or it runs.
    """
    from evo.jobs.cluster import Cluster

    cluster = Cluster(config.address)
    last = cluster.last(config.job)
    if last.is_open:
        raise UserError(f"job {config.job} is {last.state} already")
    if last.status == "SUCCEEDED":
        raise UserError(
            f"job {config.job} is finished: `evo submit` with more generations, bins or the like "
            "goes on from there"
        )
    from evo.jobs.keeper import submit_again

    submit_again(cluster, last, config.retries)
    print(f"job {config.job} goes on, attempt {last.number + 1}: `evo logs {config.job} --follow`")


def stop(config: StopConfig) -> None:
    """End a job for good.

    Raises:
        UserError: no such job.
    """
    from evo.jobs.cluster import Cluster

    cluster = Cluster(config.address)
    last = cluster.last(config.job)
    if last.is_open:
        cluster.stop(last)
    for attempt in cluster.jobs()[config.job]:
        cluster.forget(attempt)
    out = last.metadata.get("out")
    print(f"job {config.job} has ended" + (f"; what it did is in {out}" if out else ""))
