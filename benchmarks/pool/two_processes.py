"""What a second worker gains, on a pool and in bare processes without Ray, on the same work."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from evo.data.token_blocks import load_text
from evo.embedded import teacher_path
from evo.genome.bins import parse_bin
from evo.genome.cost import parameters
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.model import checkpoint
from workers.pool.pool import Pool
from workers.pool.queues import Unit
from workers.pool.stored_teacher import store_teacher
from workers.scoring.scorer import Scorer
from workers.settings import PoolSettings, ScoringSettings

LENGTH, UNIT_SEQUENCES, SHARDS = 256, 16, 4
SPACE, BIN = "coarse-layerwise", "25%"
NAMES = ("pool, 1 worker", "bare, 1 process", "pool, 2 workers", "bare, 2 processes")


def work(candidates: int) -> tuple[NDArray[np.integer], list[Unit]]:
    """The text and the units: every candidate on every shard."""
    teacher = checkpoint.load(teacher_path())
    blocks = load_text(
        "stdlib:validation",
        tokenizer=teacher.tokenizer,
        vocabulary=teacher.vocabulary,
        sequence_length=LENGTH,
    ).blocks[: SHARDS * UNIT_SEQUENCES]
    architecture, rng = teacher.architecture, np.random.default_rng(0)
    size = parameters(architecture, architecture.full_widths)
    order = Order.by_index(architecture.dimensions)
    space = Space(SPACE, architecture, order, parse_bin(BIN, size, lambda _: None))
    subnets = [space.sample(rng) for _ in range(candidates)]
    return blocks, [
        Unit("a", subnet.id, subnet.pack(), shard, start, start + UNIT_SEQUENCES)
        for subnet in subnets
        for shard, start in enumerate(range(0, SHARDS * UNIT_SEQUENCES, UNIT_SEQUENCES))
    ]


_state: dict[str, Scorer] = {}


def prepare(blocks: NDArray[np.integer]) -> None:
    """In a bare process: what a worker has, too."""
    torch.set_num_threads(1)
    teacher = checkpoint.load(teacher_path())
    _state["scorer"] = Scorer(teacher, blocks, ScoringSettings())


def score(units: list[Unit]) -> float:
    """In a bare process: one after the other."""
    scorer = _state["scorer"]
    return sum(
        sum(scorer.score(unit.genome, unit.candidate, (unit.start, unit.stop)).nll)
        for unit in units
    )


def in_pool(pool: Pool, units: list[Unit]) -> float:
    """The summed NLL of all units."""
    pool.submit(units)
    total = 0.0
    while pool.pending():
        total += sum(sum(result.nll) for result in pool.wait(1.0))
    return total


def in_processes(processes: list[ProcessPoolExecutor], units: list[Unit]) -> float:
    """The same; each process has an even part, no candidate is in two of them."""
    per_process = len(units) // len(processes)
    parts = [units[i * per_process : (i + 1) * per_process] for i in range(len(processes))]
    futures = [process.submit(score, part) for process, part in zip(processes, parts, strict=True)]
    return sum(future.result() for future in futures)


def processor_seconds() -> float:
    """Of this process and all that it has started, Ray's included."""
    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def measure(candidates: int, repeats: int) -> dict[str, Any]:
    """Everything warm, then all take turns. Ray must have been initialised."""
    blocks, units = work(candidates)
    teacher = store_teacher(checkpoint.load(teacher_path()))
    with ExitStack() as stack:
        pools = [
            stack.enter_context(
                Pool(teacher, blocks, ScoringSettings(), PoolSettings(workers=count))
            )
            for count in (1, 2)
        ]
        processes = [
            stack.enter_context(
                ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare, (blocks,))
            )
            for _ in range(2)
        ]
        contenders: dict[str, Callable[[], float]] = {
            NAMES[0]: lambda: in_pool(pools[0], units),
            NAMES[1]: lambda: in_processes(processes[:1], units),
            NAMES[2]: lambda: in_pool(pools[1], units),
            NAMES[3]: lambda: in_processes(processes, units),
        }
        while pools[1].workers < 2:
            pools[1].wait(1.0)
        totals = [run() for run in contenders.values()]
        if not np.allclose(totals, totals[0], rtol=1e-12):
            raise RuntimeError(f"the contenders do not score the same: {totals}")
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        processor: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(repeats):
            for name, run in contenders.items():
                used, began = processor_seconds(), time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - began)
                processor[name].append(processor_seconds() - used)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    gains = {
        "pool": median[NAMES[0]] / median[NAMES[2]],
        "bare": median[NAMES[1]] / median[NAMES[3]],
    }
    return {
        "candidates": candidates,
        "units": len(units),
        "unit_tokens": UNIT_SEQUENCES * blocks.shape[1],
        "seconds": median,
        "all_seconds": seconds,
        "processor_seconds": {name: statistics.median(v) for name, v in processor.items()},
        "gains": gains,
        "share_of_bare_gain": gains["pool"] / gains["bare"],
    }
