"""A Ray head with token authentication, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

RAY = str(Path(sys.executable).with_name("ray"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Head:
    """A running head node.

    Attributes:
        environment: of a process that uses it.
        variables: what of that environment is the head's: its address and its token.
        dashboard: the address of its dashboard.
        metrics: the address at which Prometheus finds its metrics.
    """

    environment: dict[str, str]
    variables: dict[str, str]
    dashboard: str
    metrics: str


@contextlib.contextmanager
def running_head() -> Iterator[Head]:
    """Start it on ports of its own, and end it and all that it has started."""
    directory = Path(tempfile.mkdtemp(prefix="evo-", dir="/tmp"))  # sockets need a short path
    (directory / "token").write_text(secrets.token_hex(32))
    ports = [free_port() for _ in range(5)]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(directory / "token")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | token | {"PATH": path}
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={directory}/ray",
        f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--metrics-export-port={ports[2]}",
        "--disable-usage-stats", f"--ray-client-server-port={ports[3]}",
        f"--dashboard-agent-listen-port={ports[4]}",
        '--system-config={"metrics_report_interval_ms": 1000}',
    ]  # fmt: skip
    log = (directory / "log").open("w")
    process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        found = Head(
            environment=environment,
            variables=token | {"RAY_ADDRESS": f"127.0.0.1:{ports[0]}"},
            dashboard=f"http://127.0.0.1:{ports[1]}",
            metrics=f"http://127.0.0.1:{ports[2]}",
        )

        def is_up() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            return answers(found.dashboard)

        wait_until(is_up, 120, lambda: (directory / "log").read_text())
        yield found
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        for one in (process, *started):  # told to end, they would take half a minute
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                one.kill()
        process.wait(30)
        shutil.rmtree(directory, ignore_errors=True)


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)  # it is there, and wants the token
    except OSError:
        return False
    return True


def wait_until(true: Callable[[], bool], seconds: float, say: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, say()
        time.sleep(0.5)
