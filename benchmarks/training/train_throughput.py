"""Tokens per second of our training loop against litgpt's, on the same network, data and threads.

    python -m benchmarks.training.train_throughput

Both as a user runs them, each in processes of its own: `evo pretrain` (with the Ray that it starts)
and `litgpt pretrain` (`benchmarks.training.litgpt_pretrain`). First each is tried with every
micro-batch, ours also with --compile, as litgpt always compiles; then the fastest of each in turn.
It wants an idle machine. Writes train_throughput.json and train_throughput.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from litgpt.config import Config
from litgpt.model import GPT

from benchmarks.machine import measured_on, sentence
from evo.model import checkpoint
from training.logs import log
from training.loop.init_weights import initialise

HERE = Path(__file__).parent
NAME = "pythia-31m"
VOCABULARY = 50304
LENGTH, BATCH = 257, 8
"""Tokens of a sequence, of which each but the last is fed and each but the first is a target; and
sequences of a step."""

MICRO_BATCHES = (4, 8)
WARM_UP, TRIED_STEPS, STEPS, ROUNDS = 4, 3, 8, 5
"""The first steps are slow: both compile in them, and a Ray that has just been started is busy."""

LEARNING_RATE = 1e-3
TOKENS_PER_STEP = BATCH * (LENGTH - 1)

Way = tuple[str, int, bool]
"""Whose loop, its micro-batch, and whether it compiles."""


def prepare(root: Path) -> None:
    """The network as a checkpoint, and random text, enough for the longest run."""
    import torch

    model = GPT(Config.from_name(NAME, block_size=LENGTH, padded_vocab_size=VOCABULARY))
    initialise(model, torch.Generator().manual_seed(0))
    checkpoint.save(root / "model", model)
    rows = (WARM_UP + STEPS + 1) * BATCH
    text = np.random.default_rng(0).integers(50254, size=(rows, LENGTH), dtype=np.int32)
    np.save(root / "text.npy", text)


def tokens_per_second(way: Way, root: Path, steps: int, threads: int) -> float:
    """Of a run's steps after the first ones, everything that happens between them included."""
    whose, micro_batch, compiled = way
    run = _ours if whose == "evo" else _litgpt
    with tempfile.TemporaryDirectory(dir=root) as directory:
        seconds = run(Path(directory), root, micro_batch, compiled, WARM_UP + steps, threads)
    return steps * TOKENS_PER_STEP / sum(seconds)


def _ours(
    directory: Path, root: Path, micro_batch: int, compiled: bool, steps: int, threads: int
) -> list[float]:
    flags = {
        "model": root / "model", "init": "random", "text": root / "text.npy",
        "tokens": steps * BATCH * LENGTH, "batch-tokens": BATCH * LENGTH,
        "sequence-length": LENGTH, "micro-batch": micro_batch, "compile": str(compiled).lower(),
        "learning-rate": LEARNING_RATE, "workers": 1, "gpus-per-worker": 0, "threads": threads,
        "checkpoint-every": steps, "out": directory / "run",
    }  # fmt: skip
    _run([sys.executable, "-m", "evo", "pretrain", *(f"--{k}={v}" for k, v in flags.items())])
    at = [row["seconds"] for row in log.rows(directory / "run")]
    return np.diff(at[WARM_UP:]).tolist()


def _litgpt(
    directory: Path, root: Path, micro_batch: int, compiled: bool, steps: int, threads: int
) -> list[float]:
    assert compiled, "litgpt pretrain has no switch for it"
    settings = {
        "name": NAME, "vocabulary": VOCABULARY, "length": LENGTH, "batch": BATCH, "steps": steps,
        "warm_up": WARM_UP, "micro_batch": micro_batch, "threads": threads,
        "learning_rate": LEARNING_RATE, "text": str(root / "text.npy"),
    }  # fmt: skip
    (directory / "settings.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "benchmarks.training.litgpt_pretrain",
        directory / "settings.json",
    ]
    return json.loads(_run(command).splitlines()[-1])


def _run(command: list[Any]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def measure(threads: int) -> dict[str, Any]:
    """Every way once, and the fastest of each side five times in turn."""
    machine = measured_on(("torch", "litgpt", "ray"))
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        prepare(root)
        ways: list[Way] = [
            *(("litgpt", size, True) for size in MICRO_BATCHES),
            *(("evo", size, compiled) for compiled in (False, True) for size in MICRO_BATCHES),
        ]
        tried = []
        for way in ways:
            tried.append((way, tokens_per_second(way, root, TRIED_STEPS, threads)))
            print(*tried[-1], flush=True)
        fastest = {
            whose: max((rate, way) for way, rate in tried if way[0] == whose)[1]
            for whose in ("evo", "litgpt")
        }
        rates: dict[str, list[float]] = {whose: [] for whose in fastest}
        for number in range(ROUNDS):
            for whose in sorted(fastest, reverse=bool(number % 2)):
                rates[whose].append(tokens_per_second(fastest[whose], root, STEPS, threads))
                print(whose, rates[whose][-1], flush=True)
    return {
        "threads": threads,
        "tried": [{"way": way, "tokens_per_second": rate} for way, rate in tried],
        "fastest": fastest,
        "tokens_per_second": rates,
        "ratio": statistics.median(rates["evo"]) / statistics.median(rates["litgpt"]),
        "machine": machine,
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables, and how they were made."""
    rates, fastest = result["tokens_per_second"], result["fastest"]
    tried = {tuple(one["way"]): one["tokens_per_second"] for one in result["tried"]}
    columns = (
        ("`litgpt pretrain`", "litgpt", True),
        ("`evo pretrain`", "evo", False),
        ("`evo pretrain --compile true`", "evo", True),
    )
    lines = [
        "# Training against litgpt's loop",
        "",
        f"Tokens per second of `evo pretrain` and of `litgpt pretrain` on {result['threads']} "
        f"threads: {NAME}'s shape, vocabulary {VOCABULARY}, from random weights in float32, steps "
        f"of {BATCH} sequences of {LENGTH - 1} targets, AdamW, gradients clipped. Each is a "
        "command in processes of its own, ours with the Ray that it starts; timed after "
        f"{WARM_UP} steps, whatever happens between steps included. Both read the same blocks "
        "from memory.",
        "",
        f"First every micro-batch, {TRIED_STEPS} steps each:",
        "",
        "| micro-batch | " + " | ".join(label for label, _, _ in columns) + " |",
        "| ---: |" + " ---: |" * len(columns),
        *(
            f"| {size} | "
            + " | ".join(f"{tried[whose, size, compiled]:,.0f}" for _, whose, compiled in columns)
            + " |"
            for size in MICRO_BATCHES
        ),
        "",
        f"Then the fastest of each, {ROUNDS} runs of {STEPS} steps in turn:",
        "",
        "| | micro-batch | compiled | tokens per second, median | each run |",
        "| --- | ---: | --- | ---: | --- |",
        *(
            f"| {whose} | {fastest[whose][1]} | {'yes' if fastest[whose][2] else 'no'} | "
            f"{statistics.median(rates[whose]):,.0f} | "
            f"{', '.join(f'{rate:,.0f}' for rate in rates[whose])} |"
            for whose in ("evo", "litgpt")
        ),
        "",
        f"**{result['ratio']:.2f}x** litgpt's.",
        "",
        sentence(result["machine"]),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    result = measure(parser.parse_args().threads)
    (HERE / "train_throughput.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "train_throughput.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
