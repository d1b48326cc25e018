"""Where and how a figure was measured."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


def measured_on(packages: tuple[str, ...] = ("torch", "litgpt", "numpy")) -> dict[str, Any]:
    """The machine, the versions, the command, and how busy others kept the machine."""
    cpu, vectors = platform.processor(), None
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = info.read_text().splitlines()
        names = [line for line in lines if line.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
        flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
        vectors = next((kind for kind in ("avx512f", "avx2") if kind in flags), None)
    script = Path(sys.argv[0]).relative_to(Path(__file__).parents[1]).with_suffix("")
    return {
        "cpu": cpu,
        "vectors": vectors,  # ratios of matrix products differ with it
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "command": " ".join(["python -m", ".".join(script.parts), *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same, to stand below a table."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    cores = f"{machine['cores']} cores"
    if machine.get("vectors"):
        cores += f", {machine['vectors']}"
    return (
        f"`{machine['command']}`, {machine['date']}, {machine['cpu']} ({cores}), "
        f"Python {machine['python']}, {versions}; load average {machine['load_average'][0]}."
    )
