"""How well searches keep workers busy: two real ones, and up to 64 that sleep as a GPU would take.

    python -m benchmarks.pool.scaling

Real scorers of one thread on the embedded teacher: what a second worker gains on a pool, against
what a second bare process gains on the same work. Simulated ones: the real driver and pool,
searches of population 50 over Pythia-6.9B's dimensions, three bins and four spaces; only the
workers sleep, 200 ms for a unit of 16,384 tokens. Utilisation is what they slept of the time from
the first unit's dispatch to the last one's result, or to the end of a run that is cut off. Writes
scaling.json, scaling.md and scaling.png beside this file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray

from benchmarks.machine import measured_on
from benchmarks.pool import two_processes
from benchmarks.pool.scaling_report import draw, markdown
from benchmarks.pool.simulated_worker import SEQUENCE_SECONDS, SimulatedWorker
from benchmarks.search.proposals import BINS, PYTHIA_6_9B
from evo.algorithms.evolution import Evolution
from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import Driver
from evo.embedded import teacher_path
from evo.genome import SPACES
from evo.genome.cost import forward_flops
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.search.generation import Screening
from evo.search.history.history import History
from evo.search.screening.rung_settings import Rungs
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.search import Search
from evo.search.spent import Spent
from workers.pool.pool import Pool, ScoredUnit
from workers.pool.queues import Unit
from workers.settings import PoolSettings, ScoringSettings

HERE = Path(__file__).parent
WORKERS = (1, 4, 16, 64)
LENGTH = 2048
UNIT_SEQUENCES = 8
CANDIDATE_UNITS, RUNG_UNITS = 4, 32
SHORT, LONG = 8, 20
"""Seconds of a run on few workers, whose barriers are far apart, and on 16 and more."""

ASSUMED_FLOPS = 0.4 * 989e12
"""Per second and GPU: 40% of an H100's dense bfloat16 rate. Assumed, not measured."""


@dataclass(frozen=True)
class Setting:
    """What is searched.

    Attributes:
        searches: 1 (coarse-layerwise in the smallest bin), or 12 (all spaces in all bins).
        units: of a candidate that is scored in full, each of `unit_sequences`.
        unit_sequences: 25 ms each.
        rungs: the default's, or none.
    """

    searches: int
    units: int
    unit_sequences: int
    rungs: Rungs


DEFAULTS = SearchConfig(teacher=teacher_path(), text="none", bins=["25%"], out=Path("scaling"))
SETTINGS = {
    "one search, unsharded": Setting(1, 1, CANDIDATE_UNITS * UNIT_SEQUENCES, Rungs()),
    "one search, sharded": Setting(1, CANDIDATE_UNITS, UNIT_SEQUENCES, Rungs()),
    "twelve searches, sharded": Setting(12, CANDIDATE_UNITS, UNIT_SEQUENCES, Rungs()),
    "one search, rungs": Setting(1, RUNG_UNITS, UNIT_SEQUENCES, DEFAULTS.rung_settings),
    "twelve searches, rungs": Setting(12, RUNG_UNITS, UNIT_SEQUENCES, DEFAULTS.rung_settings),
}


class WatchedPool(Pool):
    """Notes when units were dispatched and when their results came, and can be cut off."""

    def watch(self, seconds: float) -> None:
        """From now on; after so many seconds it says that nothing is pending."""
        self.arrivals: list[tuple[float, Unit]] = []
        self.began, self.ended, self._seconds = 0.0, 0.0, seconds

    def submit(self, units: Iterable[Unit]) -> None:
        self.began = self.began or time.monotonic()
        super().submit(units)

    def wait(self, timeout: float) -> list[ScoredUnit]:
        scored = super().wait(timeout)
        now = time.monotonic()
        self.arrivals += [(now, unit) for unit, _ in scored]
        return scored

    def pending(self, search: str | None = None) -> int:
        now = time.monotonic()
        if not self.ended and self.began and now > self.began + self._seconds:
            self.ended = now
        return 0 if self.ended else super().pending(search)

    def drain(self, searches: Iterable[str]) -> None:
        """Forget what is queued, and wait for what runs, which the watch still notes."""
        self.ended = self.ended or self.arrivals[-1][0]
        for search in searches:
            self.drop(search)
        while super().pending():
            self.wait(1.0)

    def utilisation(self, workers: int) -> float:
        """Share of the time for which workers slept; results are noted when the driver looks."""
        slept = 0.0
        for arrival, unit in self.arrivals:
            began = arrival - (unit.stop - unit.start) * SEQUENCE_SECONDS
            slept += max(0.0, min(arrival, self.ended) - began)
        return slept / (workers * (self.ended - self.began))


def searches_of(setting: Setting, stages: Stages, directory: Path) -> list[Search]:
    """The searches, fresh."""
    order = Order.by_index(PYTHIA_6_9B.dimensions)
    names = [(SPACES[1], BINS[0])]
    if setting.searches > 1:
        names = [(space, bin) for bin in BINS for space in SPACES]
    screening = Screening(stages, setting.rungs, SequenceWeights.equal(stages.sizes[-1]))
    searches = []
    for seed, (name, bin) in enumerate(names):
        space = Space(name, PYTHIA_6_9B, order, bin)
        full_name = f"{name}@{bin.name}"
        strategy = Evolution(space, DEFAULTS.budget, seed, DEFAULTS.rates)
        searches.append(Search(full_name, strategy, History(directory / full_name), screening))
    return searches


def run(name: str, pool: WatchedPool, workers: int, seconds: float) -> dict[str, Any]:
    """One setting on one pool, until the time is up."""
    setting = SETTINGS[name]
    sequences = setting.units * setting.unit_sequences
    stages = Stages.of(setting.rungs, sequences, setting.unit_sequences)
    with tempfile.TemporaryDirectory() as directory:
        searches = searches_of(setting, stages, Path(directory))
        driver = Driver(DEFAULTS, searches, pool, Spent(Path(directory)))
        pool.watch(seconds)
        thread, processor = time.thread_time(), time.process_time()
        driver.drive()
        thread, processor = time.thread_time() - thread, time.process_time() - processor
        pool.drain(search.name for search in searches)
    took = pool.ended - pool.began
    return {
        "setting": name,
        "workers": workers,
        "utilisation": pool.utilisation(workers),
        "seconds": took,
        "units": len(pool.arrivals),
        "units_per_second": len(pool.arrivals) / took,
        "generations": sum(search.strategy.generation for search in searches),
        "driver_thread": thread / took,
        "driver_process": processor / took,
    }


def ceiling(pool: WatchedPool, genome: bytes, units: int) -> float:
    """Units per second where a unit takes no time at all."""
    rates = []
    for _ in range(3):
        pool.watch(3600)
        pool.submit(Unit("a", str(i // 4), genome, i % 4, 0, 0) for i in range(units))
        while pool.pending():
            pool.wait(1.0)
        rates.append(units / (pool.arrivals[-1][0] - pool.began))
    return statistics.median(rates)


def resident_mib() -> float:
    """Of a simulated worker's process, the median."""
    return statistics.median(
        process.memory_info().rss / 2**20
        for process in psutil.Process().children(recursive=True)
        if "SimulatedWorker" in " ".join(process.cmdline())
    )


def on_workers(workers: int, seconds: float, ceiling_units: int) -> dict[str, Any]:
    """All settings, and the ceiling, on a pool of so many."""
    blocks = np.zeros((1, LENGTH), np.int32)
    settings = PoolSettings(workers=workers, start_timeout=600)
    genome = Subnet.full(PYTHIA_6_9B.dimensions).pack()
    with WatchedPool(teacher_path(), blocks, ScoringSettings(), settings, SimulatedWorker) as pool:
        pool.watch(3600)
        while pool.workers < workers:
            pool.wait(1.0)
        found = {
            "workers": workers,
            "resident_mib": resident_mib(),
            "genome_bytes": len(genome),
            "units_per_second": ceiling(pool, genome, ceiling_units),
            "small_genome_units_per_second": ceiling(pool, genome[:512], ceiling_units),
        }
        runs = []
        for name in SETTINGS:
            runs.append(run(name, pool, workers, seconds))
            print(json.dumps(runs[-1]), flush=True)
        return {"ceiling": found, "runs": runs}


def unit_times() -> list[dict[str, Any]]:
    """What a unit costs in each bin, by its FLOPs and the assumed rate."""
    rng, order = np.random.default_rng(0), Order.by_index(PYTHIA_6_9B.dimensions)
    rows = []
    for bin in BINS:
        space = Space(SPACES[0], PYTHIA_6_9B, order, bin)
        token = statistics.mean(
            forward_flops(PYTHIA_6_9B, space.sample(rng).widths, LENGTH) for _ in range(100)
        )
        flops = token * UNIT_SEQUENCES * LENGTH
        rows.append({"bin": bin.name, "unit_flops": flops, "unit_seconds": flops / ASSUMED_FLOPS})
    return rows


def main() -> None:
    """Measure, print, and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS, help="simulated")
    parser.add_argument("--short", type=float, default=SHORT, help="seconds, on few workers")
    parser.add_argument("--long", type=float, default=LONG, help="seconds, on 16 and more")
    parser.add_argument("--candidates", type=int, default=10, help="for the real scorers")
    parser.add_argument("--repeats", type=int, default=5, help="of the real scorers")
    parser.add_argument("--ceiling-units", type=int, default=1000)
    options = parser.parse_args()
    machine = measured_on(("ray", "torch", "numpy"))
    ray.init(
        address="local",
        num_cpus=max(3, *options.workers),
        include_dashboard=False,
        log_to_driver=False,
    )
    real = two_processes.measure(options.candidates, options.repeats)
    print(json.dumps(real), flush=True)
    pools = [
        on_workers(count, options.long if count >= 16 else options.short, options.ceiling_units)
        for count in options.workers
    ]
    ray.shutdown()
    result = {
        "machine": machine,
        "real": real,
        "runs": [one for pool in pools for one in pool["runs"]],
        "ceilings": [pool["ceiling"] for pool in pools],
        "assumed_flops": ASSUMED_FLOPS,
        "unit_times": unit_times(),
    }
    (HERE / "scaling.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "scaling.md").write_text(markdown(result))
    draw(result, HERE / "scaling.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
