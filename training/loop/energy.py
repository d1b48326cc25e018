"""Energy, where the hardware counts it: NVIDIA's GPUs by NVML, Intel's and AMD's CPUs by RAPL.

RAPL's counters lie in /sys/class/powercap, where only root may read them on most systems
(CVE-2020-8694). They count whole packages and their memory, whoever uses them. NVML's counters
count whole GPUs since the driver was loaded, and need the package nvidia-ml-py.
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
        key: name of the counted device, unique in the cluster.
        read: returns joules since some time.
        wraps_at: joules at which the counter begins at 0 again; None: never.
    """

    key: str
    read: Callable[[], float]
    wraps_at: float | None = None


class EnergyMeter:
    """Adds up the joules of counters since it was made.

    It must be read more often than a counter wraps around, which takes minutes at least.
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._last = [counter.read() for counter in counters]
        self._sum = 0.0

    def joules(self) -> float:
        """Joules since the meter was made."""
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
        """The counter's joules; those from before if it cannot be read just now."""
        try:
            return counter.read()
        except OSError:
            return before


def counters(device: torch.device) -> list[Counter]:
    """The counters that can be read on this node: the CPUs' and, for a GPU, the device's."""
    return cpu_counters() + (gpu_counters(device) if device.type == "cuda" else [])


def cpu_counters(directory: Path = POWERCAP) -> list[Counter]:
    """RAPL's readable counters of packages, and of their memory where it is counted apart.

    Args:
        directory: directory of the zones, see the kernel's Documentation/power/powercap.
    """
    readable = []
    for zone in sorted(directory.glob("intel-rapl:*")):  # AMD's have the same name
        path = zone / "energy_uj"
        try:
            name = (zone / "name").read_text().strip()
            inside = re.fullmatch(r"intel-rapl:\d+:\d+", zone.name) is not None
            if not (name == "dram" if inside else name.startswith("package")):
                continue
            wraps_at = int((zone / "max_energy_range_uj").read_text()) / 1e6
            int(path.read_text())
        except (OSError, ValueError):  # this process may not read it
            continue
        key = f"{socket.gethostname()} {zone.name}"
        readable.append(Counter(key, lambda path=path: int(path.read_text()) / 1e6, wraps_at))  # type: ignore[misc]
    return readable


def gpu_counters(device: torch.device) -> list[Counter]:
    """NVML's counter of a whole GPU; none without nvidia-ml-py, or if the GPU has no counter."""
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
