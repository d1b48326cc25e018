"""The searches of vs_whittle.py: one of whittle's, one of evo's, measured alike."""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from litgpt.model import GPT
from numpy.typing import NDArray

from benchmarks.pool.watched import Watched
from evo.genome.bins import parse_bin
from evo.genome.cost import parameters
from evo.genome.subnet import Subnet
from evo.model.checkpoint import Checkpoint
from evo.model.extract import extract
from evo.model.nll import summed_nll
from evo.search.history.history import History
from evo.search.history.row import Row

WHITTLE_SEARCH = Path(__file__).parent / "whittle_search.py"
BIN = "25%"
POPULATION, MICRO_BATCH = 20, 8


@dataclass(frozen=True)
class Contender:
    """A way to search.

    Attributes:
        name: in the tables.
        strategy: of whittle's `methods`; empty where evo searches.
        flags: of `evo search`.
        workers: scorers of one thread.
        as_shipped: whittle's own search over all sizes, without a bin.
        every_seed: whether it runs once for each seed, or for the first one only.
    """

    name: str
    strategy: str = ""
    flags: tuple[str, ...] = ()
    workers: int = 1
    as_shipped: bool = False
    every_seed: bool = False


FULL = ("--rungs", "full")
CONTENDERS = (
    Contender("whittle, `morea`", "morea", every_seed=True),
    Contender("evo, index order", flags=("--order", "index", *FULL), every_seed=True),
    Contender("evo, activation order", flags=("--order", "activation", *FULL), every_seed=True),
    Contender("whittle, `nsga2`", "nsga2"),
    Contender("whittle, `local_search`", "local_search"),
    Contender("whittle, `stratified_random_search`", "stratified_random_search"),
    Contender("whittle, `morea` as shipped", "morea", as_shipped=True),
    Contender(
        "evo, activation order, 2 workers", flags=("--order", "activation", *FULL), workers=2
    ),
    Contender("evo as installed (rungs), 2 workers", workers=2),
)


@dataclass(frozen=True)
class Setting:
    """What all searches share."""

    teacher: Checkpoint
    blocks: NDArray[np.int32]
    text: Path
    generations: int
    work: Path

    @property
    def evaluations(self) -> int:
        """Of one search."""
        return POPULATION * (1 + self.generations)

    @property
    def bin(self) -> tuple[int, int]:
        """Of parameters, both ends included."""
        architecture = self.teacher.architecture
        size = parameters(architecture, architecture.full_widths)
        bin = parse_bin(BIN, size, lambda _: None)
        return bin.low, bin.high

    def extract(self, subnet: Subnet) -> GPT:
        """The standalone network."""
        teacher = self.teacher
        return extract(teacher, subnet)

    def nll(self, subnet: Subnet) -> float:
        """As `evo eval` has it of the extracted network."""
        torch.set_num_threads(1)
        rows, length = self.blocks.shape
        return float(summed_nll(self.extract(subnet), self.blocks).sum() / (rows * (length - 1)))


def job_of(setting: Setting, **more: Any) -> dict[str, Any]:
    """What whittle_search.py is told."""
    return {
        "source": str(setting.teacher.path.resolve()),
        "teacher": str(setting.work / "teacher"),
        "text": str(setting.text),
        "bin": setting.bin,
        "micro_batch": MICRO_BATCH,
        "evaluations": setting.evaluations,
        "seed": 0,
        **more,
    }


def run_whittle(python: Path, setting: Setting, contender: Contender, seed: int) -> dict[str, Any]:
    """One search of whittle's: figures, and its curve of (evaluations, seconds, best NLL)."""
    stem = f"whittle-{contender.strategy}-{contender.as_shipped}-{seed}"
    job, out = setting.work / f"{stem}.job.json", setting.work / f"{stem}.json"
    more = {"strategy": contender.strategy, "as_shipped": contender.as_shipped, "seed": seed}
    job.write_text(json.dumps(job_of(setting, started=time.time(), **more)))
    command = [python, WHITTLE_SEARCH, "search", job, out]
    watched = Watched(command, setting.work / f"{stem}.log")
    seconds = watched.wait()
    result = json.loads(out.read_text())
    low, high = setting.bin
    trace = result["trace"]
    curve, best = [], None
    for number, entry in enumerate(trace, 1):
        inside = low <= entry["params"] <= high
        if inside and (best is None or entry["nll"] < best["nll"]):
            best = entry
            curve.append((number, entry["at"], entry["nll"]))
    assert best is not None, f"{contender.name}: nothing in the bin"
    subnet = subnet_of(setting, best["subnet"])
    first = trace[0]["at"] - trace[0]["seconds"]
    return {
        "teacher_nll": result["teacher_nll"],
        "nll": best["nll"],
        "rescored": setting.nll(subnet),
        "params": best["params"],
        "numel": parameters(setting.teacher.architecture, subnet.widths),
        "best": best["subnet"],
        "evaluations": len(trace),
        "in_bin": sum(low <= entry["params"] <= high for entry in trace),
        "distinct": len({json.dumps(entry["subnet"], sort_keys=True) for entry in trace}),
        "tokens": len(trace) * setting.blocks.shape[0] * (setting.blocks.shape[1] - 1),
        "proposals": result["proposals"],
        "seconds": seconds,
        "start": first,
        "seconds_per_score": statistics.mean(entry["seconds"] for entry in trace),
        "seconds_per_evaluation": (trace[-1]["at"] - first) / len(trace),
        "memory": watched.memory(),
        "curve": curve,
    }


def subnet_of(setting: Setting, config: dict[str, int]) -> Subnet:
    """The first n of everything, as whittle's configuration says."""
    full = setting.teacher.architecture.dimensions
    heads = np.arange(full.groups) < config["sub_network_num_heads"]
    neurons = np.arange(full.neurons) < config["sub_network_intermediate_size"]
    return Subnet(
        layers=np.arange(full.layers) < config["sub_network_n_layers"],
        channels=np.arange(full.channels) < config["sub_network_n_embd"],
        groups=np.tile(heads, (full.layers, 1)),
        neurons=np.tile(neurons, (full.layers, 1)),
    )


def evo_command(setting: Setting, out: Path, seed: int, workers: int, *flags: str) -> list[Any]:
    """`evo search` on what all share."""
    options = {
        "--teacher": setting.teacher.path,
        "--text": setting.text,
        "--bins": BIN,
        "--population": POPULATION,
        "--generations": setting.generations,
        "--micro-batch": MICRO_BATCH,
        "--seed": seed,
        "--workers": workers,
        "--out": out,
    }
    pairs = [part for pair in options.items() for part in pair]
    return [sys.executable, "-m", "evo", "search", *pairs, *flags]


def rows_of(out: Path) -> list[Row]:
    """The history of a run of one search."""
    return History(out / "searches" / f"coarse-uniform@{BIN}").rows()


def digest_of(rows: list[Row]) -> str:
    """Of all that two equal histories have in common: everything but the times."""
    records = [replace(row, seconds=0.0) for row in rows]
    return hashlib.blake2b(repr(records).encode(), digest_size=8).hexdigest()


def run_evo(setting: Setting, contender: Contender, seed: int) -> dict[str, Any]:
    """One search of ours; a result counts from when its generation is in the history."""
    stem = f"evo-{CONTENDERS.index(contender)}-{seed}"
    out = setting.work / stem
    directory = out / "searches" / f"coarse-uniform@{BIN}"
    marks = (directory / "history.parquet", directory / "journal-000000.jsonl")
    command = evo_command(setting, out, seed, contender.workers, *contender.flags)
    watched = Watched(command, setting.work / f"{stem}.log", marks)
    seconds = watched.wait()
    rows = rows_of(out)
    written = watched.changes["history.parquet"]
    full = [row for row in rows if row.status == "full"]
    best = min(full, key=lambda row: row.nll)
    curve = [
        (sum(row.generation <= g for row in rows), at, min(nll))
        for g, at in enumerate(written)
        if (nll := [row.nll for row in full if row.generation <= g])
    ]
    scored = statistics.mean(row.seconds for row in rows)
    start = watched.changes["journal-000000.jsonl"][0] - scored
    subnet = Subnet.unpack(best.genome, setting.teacher.architecture.dimensions)
    network = setting.extract(subnet)
    return {
        "nll": best.nll,
        "rescored": setting.nll(subnet),
        "params": best.params,
        "numel": sum(p.numel() for p in network.parameters()),
        "best": {
            "layers": best.layers,
            "channels": best.channels,
            "heads": best.groups[0],
            "neurons": best.neurons[0],
        },
        "evaluations": len(rows),
        "in_bin": len(rows),
        "distinct": len({row.candidate for row in rows}),
        "tokens": sum(row.tokens for row in rows),
        "proposals": len(rows),
        "seconds": seconds,
        "start": start,
        "seconds_per_score": scored,
        "seconds_per_evaluation": (written[-1] - start) / len(rows),
        "memory": watched.memory(),
        "curve": curve,
        "history": digest_of(rows),
    }
