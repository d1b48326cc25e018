"""What can be known of a command's cluster before Ray is imported, or anything is written."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from evo.errors import UserError

PATIENCE = 30.0
"""Seconds for which a cluster may not answer, as it may be starting."""

PAUSE = 1.0
"""Seconds between tries."""

THROW_AWAY = "runtime_resources"
"""The folder of Ray's copies of working directories, which it deletes."""


def check_address(patience: float = PATIENCE) -> None:
    """Make sure that something answers where `RAY_ADDRESS` says that a cluster is.

    Args:
        patience: seconds for which it may not answer.

    Raises:
        UserError: nothing answers, or this is no address of a cluster.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "auto", "local"):
        return
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS {address} is where `ray job submit` sends jobs: a command by itself "
            "needs the cluster's own address, such as 10.0.0.1:6379"
        )
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise UserError(f"RAY_ADDRESS {address} is no address: give one such as 10.0.0.1:6379")
    until = time.monotonic() + patience
    while (error := _refusal(host.strip("[]"), int(port))) is not None:
        if time.monotonic() >= until:
            raise UserError(
                f"no Ray answers at RAY_ADDRESS {address}, tried for {patience:g} seconds "
                f"({error}): start it with `ray start --head`, name another address, or unset "
                "RAY_ADDRESS for a Ray of this command's own"
            )
        time.sleep(PAUSE)


def _refusal(host: str, port: int) -> str | None:
    """Why a connection cannot be made; None where it can."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except (OSError, OverflowError) as error:
        return str(error)
    return None


def refuse_throw_away(out: Path) -> None:
    """Refuse an output in the copy of the working directory that Ray makes for a job.

    Args:
        out: the output.

    Raises:
        UserError: it would be deleted with the job.
    """
    directory = Path(os.path.abspath(out))
    if THROW_AWAY in directory.parts:
        raise UserError(
            f"--out {out} lies in Ray's copy of the working directory, which is deleted with the "
            f"job: give a path that all nodes share, such as /shared/{directory.name}"
        )
