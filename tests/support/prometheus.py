"""Debian's Prometheus, on loopback."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.heads import answers, free_port, wait_until

STEP = 1
"""Seconds between two scrapes, and between two values of a query."""

VARIABLES = {
    "$run": ".*", "$space": ".*", "$bin": ".*", "$__range": "10m", "$__rate_interval": "10s",
}  # fmt: skip
"""What Grafana would put in the place of its variables."""


@cache
def program(name: str) -> str:
    """`prometheus` or `promtool`: that on the path, else of Debian's package, not installed.

    Skips the test where there is neither; in CI that is an error.
    """
    found = shutil.which(name)
    if found is not None:
        return found
    unpacked = Path(os.environ["EVO_CACHE"]) / "prometheus"
    if not (unpacked / "usr").is_dir():
        fetched = _fetch(unpacked)
        if fetched is not None:
            assert not os.environ.get("CI"), fetched
            pytest.skip(f"no Prometheus: {fetched}")
    return str(unpacked / "usr" / "bin" / name)


def _fetch(directory: Path) -> str | None:
    """Unpack Debian's package; why that was not possible."""
    if shutil.which("apt-get") is None:
        return "there is no apt-get"
    directory.mkdir(parents=True, exist_ok=True)
    commands = (
        ["apt-get", "download", "prometheus"],
        ["apt-get", "update"],
        ["apt-get", "download", "prometheus"],
    )
    for command in commands:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if packages := list(directory.glob("prometheus_*.deb")):
            subprocess.run(["dpkg", "-x", str(packages[0]), str(directory)], check=True)
            return None
    return done.stderr


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str

    def range(self, query: str, seconds: float) -> list[dict[str, Any]]:
        """The series of a query over the last seconds: `metric` and `values`.

        Those without a finite value are left out.
        """
        now = time.time()
        asked = {"query": query, "start": now - seconds, "end": now, "step": STEP}
        found = self._ask("query_range", asked)["result"]
        return [
            series
            for series in found
            if any(math.isfinite(float(value)) for _, value in series["values"])
        ]

    def now(self, query: str) -> dict[str, float]:
        """The values of a query, by the value of the label `bin`."""
        found = self._ask("query", {"query": query})["result"]
        return {each["metric"].get("bin", ""): float(each["value"][1]) for each in found}

    def rules(self) -> list[dict[str, Any]]:
        """The alert rules that the server has read."""
        (group,) = self._ask("rules", {})["groups"]
        return list(group["rules"])

    def _ask(self, path: str, asked: dict[str, Any]) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        return json.loads(urllib.request.urlopen(url, timeout=30).read())["data"]


def without_variables(query: str) -> str:
    """A query of a dashboard as Grafana would send it."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


@contextlib.contextmanager
def running_prometheus(directory: Path, target: str, rules: Path) -> Iterator[Prometheus]:
    """Start it on loopback, and end it.

    Args:
        directory: for its files.
        target: host and port that it scrapes each second.
        rules: file with alert rules.
    """
    config = {
        "global": {"scrape_interval": f"{STEP}s", "evaluation_interval": f"{STEP}s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    log = directory / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [
                program("prometheus"), f"--config.file={directory}/prometheus.yml",
                f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}",
            ],
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        wait_until(lambda: answers(f"http://{address}/-/ready"), 60, log.read_text)
        yield Prometheus(f"http://{address}")
    finally:
        process.kill()
        process.wait()
