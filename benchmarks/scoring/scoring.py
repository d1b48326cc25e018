"""Seconds per candidate and peak memory of our scoring, against litgpt's own forward.

    python -m benchmarks.scoring.scoring

A Pythia-14m-shaped teacher with its vocabulary of 50304, random weights, one thread, the same
tokens. litgpt's forward with full logits and torch's cross-entropy, and its `lm_head_chunk_size`
with its `chunked_cross_entropy`, against `Scorer.score` of a candidate that keeps the whole teacher
(and is extracted anew each time; litgpt's network is there already). Each at its own fastest
micro-batch, which is searched first, and in a process of its own; then all take turns. Peak memory
is that of another such process, beyond the loaded network. Writes scoring.json and scoring.md
beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from litgpt.config import Config
from litgpt.model import GPT
from litgpt.utils import chunked_cross_entropy
from numpy.typing import NDArray
from torch.nn import functional

from benchmarks.machine import measured_on, sentence
from evo.genome.cost import forward_flops
from evo.genome.subnet import Subnet
from evo.model.layerwise_gpt import architecture_of
from evo.model.network import Network
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings

MICRO_BATCHES = (1, 2, 4, 8)
CHUNKS = (32, 128, 511)
MODEL = "pythia-14m"
HERE = Path(__file__).parent
NAMES = {
    "ours": "`Scorer.score`",
    "full": "litgpt, full logits, `cross_entropy`",
    "chunked": "litgpt, `lm_head_chunk_size`, `chunked_cross_entropy`",
}


@dataclass(frozen=True)
class Setting:
    """How a contender runs; `chunk` is litgpt's `lm_head_chunk_size`, where that is used."""

    micro_batch: int
    chunk: int = 0


class Contenders:
    """The same network and tokens for all."""

    def __init__(self, sequences: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.config = Config.from_name(MODEL)
        self.model = GPT(self.config).eval()
        length, vocabulary = self.config.block_size, self.config.vocab_size
        rng = np.random.default_rng(0)
        self.blocks: NDArray[np.int32] = rng.integers(
            vocabulary, size=(sequences, length), dtype=np.int32
        )
        self.architecture = architecture_of(self.config, tied=False)
        self.subnet = Subnet.full(self.architecture.dimensions)

    def ours(self, setting: Setting) -> float:
        """Summed NLL by our scorer, the candidate's extraction included."""
        settings = ScoringSettings(micro_batch=setting.micro_batch)
        scorer = Scorer(Network.of(self.model), self.blocks, settings)
        rows = (0, len(self.blocks))
        return sum(scorer.score(self.subnet.pack(), self.subnet.id, rows).nll)

    @torch.inference_mode()
    def full(self, setting: Setting) -> float:
        """Summed NLL by litgpt's forward and torch's cross-entropy."""
        total = 0.0
        for tokens in torch.from_numpy(self.blocks).long().split(setting.micro_batch):
            logits = self.model(tokens[:, :-1])
            targets = tokens[:, 1:].flatten()
            total += functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum").item()
        return total

    @torch.inference_mode()
    def chunked(self, setting: Setting) -> float:
        """Summed NLL by litgpt's chunked head and chunked cross-entropy."""
        total = 0.0
        for tokens in torch.from_numpy(self.blocks).long().split(setting.micro_batch):
            logits = self.model(tokens[:, :-1], lm_head_chunk_size=setting.chunk)
            targets = tokens[:, 1:]
            total += chunked_cross_entropy(logits, targets).item() * targets.numel()
        return total


def settings_of(name: str, sequences: int) -> list[Setting]:
    """All among which a contender's fastest is looked for."""
    chunks = CHUNKS if name == "chunked" else (0,)
    sizes = [size for size in MICRO_BATCHES if size <= sequences]
    return [Setting(size, chunk) for size in sizes for chunk in chunks]


@dataclass(frozen=True)
class Took:
    """Seconds of one call: of the one thread's processor, and by the clock on the wall.

    They are the same on an idle core; only the first means anything where others compute too.
    """

    processor: float
    wall: float


def products() -> dict[str, Callable[[], object]]:
    """A square product in float32, by each library that torch has for it."""
    left, right = torch.rand(2048, 2048), torch.rand(2048, 2048)
    out = torch.empty(2048, 2048)
    return {
        "torch.mm (MKL)": lambda: torch.mm(left, right, out=out),
        "oneDNN": lambda: functional.linear(left.to_mkldnn(), right),
    }


_state: dict[str, Any] = {}


def prepare(sequences: int) -> None:
    """Load the network in a contender's process."""
    _state["contenders"] = Contenders(sequences)
    _state["products"] = products()


def run(name: str, setting: Setting) -> float:
    """In a contender's process: its NLL, or nothing of use from a product."""
    if name in _state["products"]:
        _state["products"][name]()
        return 0.0
    return getattr(_state["contenders"], name)(setting)


def timed(name: str, setting: Setting) -> Took:
    """In a contender's process: the time of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    run(name, setting)
    return Took(time.process_time() - processor, time.perf_counter() - wall)


def peak_memory(name: str, setting: Setting) -> float:
    """In a contender's process: MiB at the highest during a call, beyond those before.

    By Linux's own account, as `ru_maxrss` begins at the parent's.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far becomes the present
    before = psutil.Process().memory_info().rss / 2**20
    run(name, setting)
    status = Path("/proc/self/status").read_text()
    highest = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(highest.split()[1]) / 1024 - before


def process_of(sequences: int) -> ProcessPoolExecutor:
    """A process for one contender, so that none profits or suffers from another's allocations."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), prepare, (sequences,))


def fastest(process: ProcessPoolExecutor, name: str, sequences: int) -> Setting:
    """The setting with the least time, the better of two tries each."""
    best: dict[Setting, float] = {}
    for _ in range(2):
        for setting in settings_of(name, sequences):
            took = process.submit(timed, name, setting).result().processor
            best[setting] = min(took, best.get(setting, math.inf))
    return min(best, key=best.__getitem__)


def measure(sequences: int, repeats: int) -> dict:
    """All figures."""
    machine = measured_on()
    names = [*NAMES, *products()]
    with ExitStack() as stack:
        process = {name: stack.enter_context(process_of(sequences)) for name in names}
        chosen = {name: fastest(process[name], name, sequences) for name in NAMES}
        chosen |= {name: Setting(0) for name in products()}
        nll = {name: process[name].submit(run, name, chosen[name]).result() for name in names}
        times: dict[str, list[Took]] = {name: [] for name in names}
        for _ in range(repeats):
            for name in names:
                times[name].append(process[name].submit(timed, name, chosen[name]).result())
    peaks = {}
    for name in NAMES:
        with process_of(sequences) as fresh:
            peaks[name] = fresh.submit(peak_memory, name, chosen[name]).result()
    median = {
        name: statistics.median(took.processor for took in values) for name, values in times.items()
    }
    config = Config.from_name(MODEL)
    architecture = architecture_of(config, tied=False)
    length = config.block_size - 1
    flops = forward_flops(architecture, architecture.full_widths, length) * length * sequences
    rates = {name: 2 * 2048**3 / median[name] / 1e9 for name in products()}
    rows = {
        name: {
            "micro_batch": chosen[name].micro_batch,
            "chunk": chosen[name].chunk,
            "seconds": median[name],
            "wall_seconds": statistics.median(took.wall for took in times[name]),
            "all_seconds": [took.processor for took in times[name]],
            "gflops": flops / median[name] / 1e9,
            "peak_mib": peaks[name],
            "nll_per_token": nll[name] / (sequences * length),
        }
        for name in NAMES
    }
    return {
        "machine": machine | {"load_average_after": os.getloadavg()},
        "sequences": sequences,
        "targets_per_sequence": length,
        "flops": flops,
        "contenders": rows,
        "matrix_product_gflops": rates,
        "share_of_matrix_product": {
            name: rows["ours"]["gflops"] / rate for name, rate in rates.items()
        },
    }


def markdown(result: dict) -> str:
    """The table, and what it says."""
    rows, ours = result["contenders"], result["contenders"]["ours"]
    lines = [
        "# Scoring a candidate",
        "",
        f"A Pythia-14m-shaped candidate (vocabulary 50304), {result['sequences']} sequences of "
        f"{result['targets_per_sequence']} targets, one thread, float32; each contender at its own "
        f"fastest micro-batch, medians of {len(ours['all_seconds'])} interleaved runs, in seconds "
        "of the thread's processor. Ours includes extracting the candidate.",
        "",
        "| | micro-batch | chunk | seconds per candidate | times ours | GFLOP/s | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, row in rows.items():
        lines.append(
            f"| {NAMES[name]} | {row['micro_batch']} | {row['chunk'] or '–'} | "
            f"{row['seconds']:.3f} | {row['seconds'] / ours['seconds']:.2f} | "
            f"{row['gflops']:.0f} | {row['peak_mib']:.0f} |"
        )
    shares = "; ".join(
        f"{name} {rate:.0f} GFLOP/s, of which ours reaches "
        f"{result['share_of_matrix_product'][name]:.2f}"
        for name, rate in result["matrix_product_gflops"].items()
    )
    lines += [
        "",
        "Peak memory is beyond the loaded network; ours holds the extracted candidate besides. "
        "FLOPs are those of all matrix products (`evo.genome.cost.forward_flops`), without the "
        "softmax's "
        f"exponentials. A square product of 2048 in the same run: {shares}.",
        "",
        sentence(result["machine"]),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    result = measure(options.sequences, options.repeats)
    (HERE / "scoring.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "scoring.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
