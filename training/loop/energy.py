"""Energy, where the hardware counts it: NVIDIA's GPUs by NVML, Intel's and AMD's CPUs by RAPL.

RAPL's counters lie in /sys/class/powercap, and root alone may read them on most systems
(CVE-2020-8694); they count whole packages and their memory, whoever uses them. NVML's count whole
GPUs since the driver was loaded, and need the package nvidia-ml-py.

The package zeus reads the same counters, but needs pandas, scikit-learn, pydantic, tyro, httpx and
amdsmi for it, and a process for each of RAPL's.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """A counter that the hardware keeps.

    Attributes:
        key: a name of what it counts, unique in the cluster.
        read: a function that returns the joules since some time.
        wraps_at: the joules at which it begins at 0 again; None if it never does.
    """

    key: str
    read: Callable[[], float]
    wraps_at: float | None = None


class EnergyMeter:
    """Joules of some counters since it was made.

    Read it more often than a counter wraps around, which takes minutes at least.
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._last = [counter.read() for counter in counters]
        self._sum = 0.0

    def joules(self) -> float:
        """Sum the joules of all counters since the meter was made."""
        now = [
            self._read(counter, before)
            for counter, before in zip(self._counters, self._last, strict=True)
        ]
        for counter, before, after in zip(self._counters, self._last, now, strict=True):
            wrapped = counter.wraps_at if after < before else 0.0
            self._sum += after - before + (wrapped or 0.0)
        self._last = now
        return self._sum

    def _read(self, counter: Counter, before: float) -> float:
        """Read a counter, or return its last value if it cannot be read just now."""
        try:
            return counter.read()
        except OSError:
            return before


def counters(device: torch.device) -> list[Counter]:
    """List the counters that can be read on this node: its CPUs' and the GPU's, if there is one."""
    return cpu_counters() + (gpu_counters(device) if device.type == "cuda" else [])


def cpu_counters(directory: Path = POWERCAP) -> list[Counter]:
    """List RAPL's packages, and their memory where it is counted apart, that can be read.

    Args:
        directory: the directory of the zones, see the kernel's Documentation/power/powercap.
    """
    found = []
    for zone in sorted(directory.glob("intel-rapl:*")):  # AMD's have the same name
        path = zone / "energy_uj"
        try:
            name = (zone / "name").read_text().strip()
            inside = re.fullmatch(r"intel-rapl:\d+:\d+", zone.name) is not None
            if not (name == "dram" if inside else name.startswith("package")):
                continue
            wraps_at = int((zone / "max_energy_range_uj").read_text()) / 1e6
            int(path.read_text())
        except (OSError, ValueError):  # not for us
            continue
        key = f"{socket.gethostname()} {zone.name}"
        found.append(Counter(key, lambda path=path: int(path.read_text()) / 1e6, wraps_at))  # type: ignore[misc]
    return found


def gpu_counters(device: torch.device) -> list[Counter]:
    """List NVML's counter of a whole GPU, if it has one and nvidia-ml-py is installed."""
    try:
        import pynvml
    except ImportError:
        return []
    key = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(key)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return []

    def read() -> float:
        try:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        except pynvml.NVMLError as error:
            raise OSError(str(error)) from error

    return [Counter(key, read)]
