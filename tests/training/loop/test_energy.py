from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.loop.energy import Counter, EnergyMeter, counters, cpu_counters


def zone(root: Path, directory: str, name: str, microjoules: int, largest: int = 1000_000_000):
    path = root / directory
    path.mkdir()
    for file, content in (
        ("name", name),
        ("energy_uj", microjoules),
        ("max_energy_range_uj", largest),
    ):
        (path / file).write_text(f"{content}\n")
    return path / "energy_uj"


def test_reads_packages_and_their_memory_as_the_kernel_lays_them_out(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    memory = zone(tmp_path, "intel-rapl:0:0", "dram", 1_000_000)
    zone(tmp_path, "intel-rapl:0:1", "core", 3_000_000)  # a part of the package
    second = zone(tmp_path, "intel-rapl:1", "package-1", 998_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)  # all of the machine
    found = cpu_counters(tmp_path)
    assert [counter.key.split()[1] for counter in found] == [
        "intel-rapl:0",
        "intel-rapl:0:0",
        "intel-rapl:1",
    ]
    meter = EnergyMeter(found)
    assert meter.joules() == 0
    first.write_text("7500000\n")
    memory.write_text("1250000\n")
    second.write_text("3000000\n")  # it wrapped around at 1000 J
    assert meter.joules() == pytest.approx(2.5 + 0.25 + 5.0)
    second.write_text("4000000\n")
    assert meter.joules() == pytest.approx(8.75)


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    assert cpu_counters(tmp_path / "nowhere") == []
    zone(tmp_path, "intel-rapl:0", "package-0", 1).write_text("")
    assert cpu_counters(tmp_path) == []


def test_a_meter_adds_its_counters() -> None:
    values = iter([1.0, 10.0, 3.0, 14.0])
    meter = EnergyMeter([Counter("a", lambda: next(values)), Counter("b", lambda: next(values))])
    assert meter.joules() == 2.0 + 4.0


def test_a_counter_that_cannot_be_read_just_now_keeps_its_value() -> None:
    values = iter([1.0, 3.0, None, 7.0])

    def read() -> float:
        value = next(values)
        if value is None:
            raise OSError("busy")
        return value

    meter = EnergyMeter([Counter("a", read)])
    assert [meter.joules() for _ in range(3)] == [2.0, 2.0, 6.0]


@pytest.mark.cuda
def test_a_gpu_that_works_uses_energy() -> None:
    pytest.importorskip("pynvml")
    device = torch.device("cuda:0")
    meter = EnergyMeter([one for one in counters(device) if one.key.startswith("GPU-")])
    matrix = torch.ones(8192, 8192, device=device)
    for _ in range(50):
        matrix @ matrix
    torch.cuda.synchronize()
    assert meter.joules() > 0
