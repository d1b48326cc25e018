"""Memory that a second scoring worker adds to a node.

    python -m benchmarks.pool.memory

A Pythia-70m-shaped teacher with random weights in float32, written to a temporary directory. Three
actors: one that has only imported what a worker imports, and two workers. Memory is what belongs to
a process alone (USS), and PSS, which also counts its part of the pages that it shares. Writes
memory.json and memory.md beside this file.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
import torch
from litgpt.config import Config
from litgpt.model import GPT

from benchmarks.machine import measured_on, sentence
from evo.genome.cost import parameters
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from workers.pool.scoring_worker import ScoringWorker
from workers.pool.stored_teacher import store_teacher
from workers.settings import ScoringSettings

MIB = 2**20
LENGTH, SEQUENCES, MICRO_BATCH = 512, 8, 4
HERE = Path(__file__).parent


class Probe(ScoringWorker):
    """A worker that tells its process id."""

    def pid(self) -> int:
        """Of the actor's process."""
        return os.getpid()


@dataclass
class Peak:
    """The most memory of a process's own, sampled while something runs."""

    process: psutil.Process
    uss: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.01):
            self.uss = max(self.uss, self.process.memory_full_info().uss)


def memory_of(process: psutil.Process) -> dict[str, float]:
    """MiB, once they have settled."""
    time.sleep(1)
    info = process.memory_full_info()
    return {name: getattr(info, name) / MIB for name in ("uss", "pss", "rss")}


def half(teacher: checkpoint.Checkpoint) -> Subnet:
    """A candidate of half the teacher's channels, groups and neurons."""
    full = Subnet.full(teacher.architecture.dimensions)
    channels, groups, neurons = full.channels.copy(), full.groups.copy(), full.neurons.copy()
    channels[1::2] = groups[:, 1::2] = neurons[:, 1::2] = False
    return Subnet(full.layers, channels, groups, neurons)


def write_teacher(directory: Path) -> checkpoint.Checkpoint:
    """Random weights in Pythia-70m's shape."""
    torch.manual_seed(0)
    checkpoint.save(directory, GPT(Config.from_name("pythia-70m")))
    return checkpoint.load(directory)


def measure(directory: Path) -> dict[str, Any]:
    """All figures."""
    teacher = write_teacher(directory / "teacher")
    machine = measured_on(("torch", "litgpt", "ray"))
    rng = np.random.default_rng(0)
    shape = (SEQUENCES, LENGTH)
    blocks = ray.put(rng.integers(teacher.config.vocab_size, size=shape, dtype=np.int32))
    stored = store_teacher(teacher)
    actor_class: Any = ray.remote(num_cpus=0)(Probe)
    settings = ScoringSettings(micro_batch=MICRO_BATCH)
    work = ray.put((stored, settings))
    idle, first, second = (actor_class.remote([work]) for _ in range(3))
    processes = [psutil.Process(ray.get(actor.pid.remote())) for actor in (idle, first, second)]
    ray.get(first.start.remote())
    result: dict[str, Any] = {"imports_only": memory_of(processes[0])}
    ray.get(second.start.remote())
    result["first_worker_before_scoring"] = memory_of(processes[1])
    result["second_worker_before_scoring"] = memory_of(processes[2])
    subnet = half(teacher)
    for name, actor, process in zip(
        ("first", "second"), (first, second), processes[1:], strict=True
    ):
        with Peak(process) as peak:
            ray.get(actor.score.remote(subnet.pack(), subnet.id, [blocks], 0, SEQUENCES))
        result[f"{name}_worker_peak_uss_while_scoring"] = peak.uss / MIB
    base = result["imports_only"]
    before = result["second_worker_before_scoring"]
    size = sum({id(t): t.nbytes for t in teacher.weights.values()}.values()) / MIB
    candidate = parameters(teacher.architecture, subnet.widths) * 4 / MIB
    added = {name: before[name] - base[name] for name in ("uss", "pss")}
    scoring = result["second_worker_peak_uss_while_scoring"] - base["uss"]
    return result | {
        "machine": machine,
        "teacher_mib": size,
        "candidate_mib": candidate,
        "second_worker_adds": added,
        "second_worker_adds_share_of_teacher": {name: mib / size for name, mib in added.items()},
        "second_worker_adds_while_scoring_uss": scoring,
        "activations_of_a_micro_batch_and_logits_uss": scoring - candidate,
    }


def markdown(result: dict[str, Any]) -> str:
    """The table, and what it says."""
    base, before = result["imports_only"], result["second_worker_before_scoring"]
    added, share = result["second_worker_adds"], result["second_worker_adds_share_of_teacher"]
    peak = result["second_worker_peak_uss_while_scoring"]
    return "\n".join(
        [
            "# Memory of a second worker",
            "",
            f"Teacher: {result['teacher_mib']:.0f} MiB of weights, float32. Candidate: half of its "
            f"channels, groups and neurons, {result['candidate_mib']:.0f} MiB. Micro-batches of "
            f"{MICRO_BATCH} x {LENGTH} tokens, vocabulary 50304.",
            "",
            "| | own memory (USS), MiB | PSS, MiB |",
            "| --- | ---: | ---: |",
            f"| an actor with a worker's imports | {base['uss']:.1f} | {base['pss']:.1f} |",
            f"| second worker, weights mapped | {before['uss']:.1f} | {before['pss']:.1f} |",
            f"| so it adds | {added['uss']:.1f} | {added['pss']:.1f} |",
            f"| as a share of the teacher | {share['uss']:.1%} | {share['pss']:.1%} |",
            f"| second worker, most while it scores | {peak:.1f} | |",
            f"| so that adds | {result['second_worker_adds_while_scoring_uss']:.1f} | |",
            "| of that beyond the candidate's weights | "
            f"{result['activations_of_a_micro_batch_and_logits_uss']:.1f} | |",
            "",
            sentence(result["machine"]),
            "",
        ]
    )


def main() -> None:
    """Measure, print, and write beside this file."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as directory:
        result = measure(Path(directory))
    ray.shutdown()
    (HERE / "memory.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "memory.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
