"""`evo submit`: run a command as a job on a Ray cluster."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

from evo.commands.jobs.config import SubmitConfig, Submitted
from evo.errors import UserError
from evo.flags import command_line
from evo.jobs.grafana_link import grafana_link

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""What tells Ray how long a driver may take to end."""


def run(config: SubmitConfig, submitted: Submitted) -> None:
    """Submit the command, and say how to watch it.

    Raises:
        UserError: it cannot run there, a job of that name runs, or the cluster refuses it.
    """
    _check_paths(submitted)
    from evo.jobs import keeper
    from evo.jobs.cluster import STOP_SECONDS, Cluster

    name = config.name or _name(submitted)
    cluster = Cluster(config.address)
    metadata = describe(submitted)
    link = grafana_link(submitted.name, metadata["out"], os.environ)
    if link is not None:
        metadata["grafana"] = link
    before = cluster.jobs().get(name)
    if before is not None:
        last = before[-1]
        if last.is_open:
            raise UserError(
                f"job {name} is {last.state}: `evo pause {name}` first, or give another --name"
            )
        if last.metadata.get("out") != metadata["out"]:
            raise UserError(
                f"job {name} writes to {last.metadata.get('out')}, not to {metadata['out']}: give "
                f"another --name, or `evo stop {name}` first"
            )
    environment = {
        keeper.JOB: name,
        keeper.RETRIES: str(config.retries),
        STOP_WAIT: str(STOP_SECONDS),
    }
    if link is not None:
        environment[keeper.WATCH] = link
    runtime_env: dict[str, Any] = {"env_vars": environment}
    if config.working_dir is not None:
        runtime_env["working_dir"] = str(config.working_dir)
    cluster.submit(
        name,
        entrypoint(submitted),
        metadata=metadata,
        runtime_env=runtime_env,
        retries=config.retries,
        number=before[-1].number + 1 if before else 1,
    )
    attempt = cluster.last(name)
    print(f"job {name}: {attempt.entrypoint}")
    print(f"  evo logs {name} --follow      what it says")
    print("  evo jobs" + " " * (len(name) + 15) + "how far it is")
    print(f"  {cluster.address}/#/jobs/{attempt.id}")
    if link is not None:
        print(f"  {link}")
    if config.follow:
        cluster.follow(attempt, lambda text: print(text, end="", flush=True))


def entrypoint(submitted: Submitted) -> str:
    """The line that a shell on the cluster runs.

    Files of `--config` lie on this machine, so their values are written out.
    """
    if any(word.partition("=")[0] == "--config" for word in submitted.words):
        return command_line(submitted.name, submitted.config)
    return shlex.join(["evo", submitted.name, *submitted.words])


def describe(submitted: Submitted) -> dict[str, str]:
    """What the job's metadata say: command, run directory, teacher, text, bins, spaces."""
    names = ("out", "teacher", "model", "text", "bins", "spaces")
    values = {name: getattr(submitted.config, name, None) for name in names}
    described = {
        name: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in values.items()
        if value is not None
    }
    return {"command": submitted.name, "out": "", **described}


def _name(submitted: Submitted) -> str:
    """A job's name from its command and run directory."""
    out = getattr(submitted.config, "out", None) or getattr(submitted.config, "run", None)
    last = Path(str(out)).name if out is not None else ""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{submitted.name}-{last}").strip("-")


def _check_paths(submitted: Submitted) -> None:
    """Refuse an output that would go with the job's own directory."""
    out = getattr(submitted.config, "out", None)
    if out is not None and "://" not in str(out) and not os.path.isabs(out):
        raise UserError(
            f"--out {out} is relative, and a job's own directory is deleted with it: give a path "
            f"that all nodes share, such as /shared/{out}"
        )
