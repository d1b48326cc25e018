"""What whittle and evo can do at all, for vs_whittle.py: each answer is tried out."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.pool.watched import Watched
from benchmarks.whittle.whittle_runs import (
    BIN,
    FULL,
    MICRO_BATCH,
    WHITTLE_SEARCH,
    Setting,
    digest_of,
    evo_command,
    job_of,
    rows_of,
)
from evo.genome import SPACES
from evo.genome.bins import parse_bin
from evo.genome.cost import parameters
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings

PER_SPACE = 5
SCORES = 5
"""Each is scored so many times for its time, as in benchmarks/whittle/whittle_search.py."""


def arguments_of(space: str, subnet: Subnet) -> dict[str, Any]:
    """A subnet as arguments of whittle's `GPT.set_sub_network`."""
    kept, widths = np.flatnonzero(subnet.layers), subnet.widths
    if space == "coarse-uniform":
        return {
            "sub_network_n_embd": widths.channels,
            "sub_network_intermediate_size": widths.neurons[0],
            "sub_network_num_heads": widths.groups[0],
            "sub_network_n_layers": widths.layers,
        }
    if space == "coarse-layerwise":
        return {
            "sub_network_n_embd": widths.channels,
            "sub_network_intermediate_size": list(widths.neurons),
            "sub_network_num_heads": list(widths.groups),
            "sub_network_n_layers": widths.layers,
        }
    groups = [np.flatnonzero(subnet.groups[layer]).tolist() for layer in kept]
    neurons = [np.flatnonzero(subnet.neurons[layer]).tolist() for layer in kept]
    uniform = space == "fine-uniform"
    return {
        "sampled_embd_indices": np.flatnonzero(subnet.channels).tolist(),
        "sampled_query_group_indices": groups[0] if uniform else groups,
        "sampled_intermediate_indices": neurons[0] if uniform else neurons,
        "sampled_layer_indices": kept.tolist(),
    }


def scattered(space: str, subnet: Subnet, rng: np.random.Generator) -> Subnet:
    """The same widths, but of random layers, channels, groups and neurons."""
    widths, full = subnet.widths, subnet.dimensions
    layers = rng.permutation(subnet.layers)
    channels = rng.permutation(subnet.channels)
    groups, neurons = np.ones_like(subnet.groups), np.ones_like(subnet.neurons)
    seed = int(rng.integers(2**32))
    for layer, (heads, size) in zip(
        np.flatnonzero(layers), zip(widths.groups, widths.neurons, strict=True), strict=True
    ):
        # in a uniform space all layers keep the same ones
        own = np.random.default_rng(seed if space == "fine-uniform" else seed + int(layer))
        groups[layer] = own.permutation(full.groups) < heads
        neurons[layer] = own.permutation(full.neurons) < size
    return Subnet(layers, channels, groups, neurons)


def abilities(python: Path, setting: Setting) -> dict[str, Any]:
    """The same subnets of the four spaces, in whittle and in evo, against one set of logits.

    The reference is whittle's super-network with the sub-network set in place.
    """
    architecture = setting.teacher.architecture
    rng = np.random.default_rng(0)
    drawn: list[tuple[str, Subnet]] = []
    bin = parse_bin(BIN, parameters(architecture, architecture.full_widths), lambda _: None)
    for name in SPACES:
        shapes = "coarse-uniform" if name.endswith("-uniform") else "coarse-layerwise"
        space = Space(shapes, architecture, Order.by_index(architecture.dimensions), bin)
        for _ in range(PER_SPACE):
            subnet = space.sample(rng)
            drawn.append((name, scattered(name, subnet, rng) if "fine" in name else subnet))
    directory = setting.work / "abilities"
    directory.mkdir()
    given = [
        {
            "space": name,
            "arguments": arguments_of(name, subnet),
            "logits": str(directory / f"{number}.npy"),
        }
        for number, (name, subnet) in enumerate(drawn)
    ]
    job, out = directory / "job.json", directory / "out.json"
    job.write_text(json.dumps(job_of(setting, subnets=given, directory=str(directory))))
    command = [python, WHITTLE_SEARCH, "abilities", job, out]
    Watched(command, setting.work / "abilities.log").wait()
    result = json.loads(out.read_text())
    for row, (_, subnet), one in zip(result["rows"], drawn, given, strict=True):
        row["numel"] = parameters(architecture, subnet.widths)
        if row["in_place"] == "runs":
            expected = np.load(one["logits"])
            row["evo"] = evo_ability(setting, subnet, directory / f"evo-{row['index']}", expected)
    return result


@torch.inference_mode()
def evo_ability(
    setting: Setting, subnet: Subnet, directory: Path, expected: NDArray[np.float32]
) -> dict[str, float]:
    """Of evo's extraction: the largest difference of logits, and how far its count is off."""
    network = setting.extract(subnet)
    checkpoint.save(directory, network)
    tokens = torch.from_numpy(setting.blocks[:2, :-1].astype(np.int64))
    numel = sum(p.numel() for p in network.parameters())
    saved = checkpoint.load(directory).model().eval()
    teacher, seconds = setting.teacher, []
    scorer = Scorer(teacher, setting.blocks,
        ScoringSettings(micro_batch=MICRO_BATCH, cache_bytes=0),
    )  # fmt: skip
    for _ in range(1 + SCORES):
        began = time.perf_counter()
        scorer.score(subnet.pack(), subnet.id, (0, len(setting.blocks)))
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": min(seconds[1:]),
        "extracted": float(np.abs(network(tokens).numpy() - expected).max()),
        "saved": float(np.abs(saved(tokens).numpy() - expected).max()),
        "count_off": parameters(setting.teacher.architecture, subnet.widths) / numel - 1,
    }


def whittle_resumes(python: Path, setting: Setting) -> dict[str, Any]:
    """`whittle search --resume auto`, killed with SIGKILL, and run again."""
    directory = setting.work / "resume"
    directory.mkdir()
    job = directory / "job.json"
    more = {"strategy": "morea", "evaluations": 12, "directory": str(directory / "out")}
    job.write_text(json.dumps(job_of(setting, **more)))
    logs = [directory / f"{name}.jsonl" for name in ("killed", "again")]
    command = [python, WHITTLE_SEARCH, "command", job]
    first = Watched([*command, logs[0]], directory / "killed.log")
    while len(lines_of(logs[0])) < 6 and first.process.poll() is None:
        time.sleep(0.02)
    first.kill()
    Watched([*command, logs[1]], directory / "again.log").wait()
    killed, again = (lines_of(log) for log in logs)
    return {
        "asked": 12,
        "before_kill": len(killed),
        "after_restart": len(again),
        "evaluated_again": len(set(killed) & set(again)),
    }


def lines_of(path: Path) -> list[str]:
    """Of a file that may not be there yet."""
    return path.read_text().splitlines() if path.is_file() else []


def evo_resumes(setting: Setting) -> dict[str, Any]:
    """`evo search`, killed with SIGKILL after its second generation, and run again."""
    short = replace(setting, generations=4)
    flags = ("--order", "index", *FULL)
    reference, out = setting.work / "undisturbed", setting.work / "killed"
    Watched(evo_command(short, reference, 0, 1, *flags), setting.work / "undisturbed.log").wait()
    directory = out / "searches" / f"coarse-uniform@{BIN}"
    command = evo_command(short, out, 0, 1, *flags)
    marks = (directory / "history.parquet",)
    first = Watched(command, setting.work / "killed.log", marks)
    while len(first.changes["history.parquet"]) < 2 and first.process.poll() is None:
        time.sleep(0.02)
    first.kill()
    before = {row.candidate: row.seconds for row in rows_of(out)}
    Watched(command, setting.work / "killed-again.log").wait()
    rows, expected = rows_of(out), rows_of(reference)
    return {
        "asked": short.evaluations,
        "before_kill": len(before),
        "evaluated_again": sum(
            before[row.candidate] != row.seconds for row in rows if row.candidate in before
        ),
        "same_history": digest_of(rows) == digest_of(expected),
    }
