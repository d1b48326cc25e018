"""A pretraining run of 200 steps on two workers, killed at five random moments.

    python -m benchmarks.training.training_interruptions

Runs the same `evo pretrain` undisturbed and disturbed: at random steps either one of the workers
or the command itself is killed with kill -9, after which the command is run again. Compares what
the two leave: the log, line by line, and the weights. Writes training_interruptions.json and
training_interruptions.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from benchmarks.machine import measured_on, sentence
from evo.embedded import teacher_path
from evo.model import checkpoint
from training.data.prefetch import digest
from training.logs import log

STEPS, BATCH, LENGTH, TEXT_BLOCKS = 200, 4, 64, 150
HERE = Path(__file__).parent


def start(root: Path, name: str) -> subprocess.Popen[bytes]:
    """The run, as a user starts it."""
    flags = [
        "--model", str(teacher_path()), "--init", "random", "--text", str(root / "text.npy"),
        "--tokens", str(STEPS * BATCH * LENGTH), "--batch-tokens", str(BATCH * LENGTH),
        "--validation-text", str(root / "text.npy"), "--validation-tokens", "1024",
        "--sequence-length", str(LENGTH), "--checkpoint-every", "10", "--workers", "2",
        "--threads", "1", "--gpus-per-worker", "0", "--log-blocks", "true",
        "--out", str(root / name),
    ]  # fmt: skip
    output = (root / f"{name}.log").open("ab")
    command = [sys.executable, "-m", "evo", "pretrain", *flags]
    return subprocess.Popen(command, stdout=output, stderr=output)


def last_step(run: Path) -> int:
    """The last step in a run's log."""
    return max((row["step"] for row in log.rows(run)), default=-1)


def finish(root: Path, name: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for a run's end."""
    assert process.wait() == 0, (root / f"{name}.log").read_text()[-3000:]


def kill_worker(process: subprocess.Popen[bytes], rng: np.random.Generator) -> None:
    """One of the training workers among a command's descendants, the others unharmed."""
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [one for one in children if "ray::RayTrainWorker" in " ".join(one.cmdline())]
    workers[int(rng.integers(len(workers)))].kill()


def kill_driver(process: subprocess.Popen[bytes]) -> None:
    """The command, and wait until the Ray that it had started has ended by itself."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(started, timeout=120)
    for one in left:  # seen on an overloaded machine
        one.kill()


def disturb(root: Path, name: str, kills: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """The run with its kills; whom at which step."""
    steps = sorted(rng.choice(np.arange(5, STEPS - 5), size=kills, replace=False).tolist())
    whom = rng.permutation(["worker", "driver"] * kills)[:kills].tolist()
    process, done = start(root, name), []
    for target, step in zip(whom, steps, strict=True):
        # A step that was done before an earlier kill counts once it is done again.
        if done:
            while last_step(root / name) >= step:
                time.sleep(0.002)
        while last_step(root / name) < step:
            assert process.poll() is None, (root / f"{name}.log").read_text()[-3000:]
            time.sleep(0.002)
        at = last_step(root / name)
        if target == "worker":
            kill_worker(process, rng)
        else:
            kill_driver(process)
            process = start(root, name)
        done.append({"killed": target, "at_step": at})
        print(done[-1], flush=True)
    finish(root, name, process)
    return done


def rows_of(run: Path) -> list[dict[str, Any]]:
    """A run's log without what it tells of the machine."""
    return [{k: v for k, v in row.items() if k not in log.MEASURED} for row in log.rows(run)]


def blocks_read(run: Path, text: NDArray[np.int32]) -> list[int]:
    """How often each block of the text was read, by the numbers in the log.

    The hash that stands beside the numbers is taken by the workers, of the tokens they read.
    """
    read = []
    for row in log.rows(run)[1:]:
        numbers = [block for _, block in row["block_ids"]]
        assert row["blocks"] == f"{digest(text[numbers].astype(np.int64)) % 2**64:016x}"
        read += numbers
    return np.bincount(read, minlength=TEXT_BLOCKS).tolist()


def measure(kills: int, seed: int) -> dict[str, Any]:
    """Both runs."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        vocabulary = checkpoint.load(teacher_path()).vocabulary
        # Few token ids, so that there is something to learn.
        text = rng.integers(min(64, vocabulary), size=(TEXT_BLOCKS, LENGTH), dtype=np.int32)
        np.save(root / "text.npy", text)
        began = time.monotonic()
        finish(root, "whole", start(root, "whole"))
        seconds = time.monotonic() - began
        done = disturb(root, "killed", kills, rng)
        one, other = rows_of(root / "whole"), rows_of(root / "killed")
        losses = [[row["loss"] for row in rows if "loss" in row] for rows in (one, other)]
        weights = [checkpoint.load(root / name / "model").weights for name in ("whole", "killed")]
        reads = [blocks_read(root / name, text) for name in ("whole", "killed")]
        pairs = [(tensor, weights[1][name]) for name, tensor in weights[0].items()]
        result = {
            "steps": [row["step"] for row in other] == list(range(STEPS + 1)),
            "log_lines_equal": one == other,
            "largest_relative_loss_difference": float(
                np.max(np.abs(np.subtract(*losses) / np.array(losses[0])))
            ),
            "weights_equal": all(torch.equal(tensor, same) for tensor, same in pairs),
            "largest_weight_difference": max(float((a - b).abs().max()) for a, b in pairs),
            "reads_of_a_block": sorted(set(reads[1])),
            "reads_equal": reads[0] == reads[1],
            "first_and_last_loss": [losses[0][0], losses[0][-1]],
        }
    return {
        "seconds": round(seconds, 1),
        "kills": done,
        **result,
        "machine": measured_on(("torch", "ray")),
    }


def passed(measured: dict[str, Any]) -> bool:
    """Whether a kill is nothing but lost time: bit for bit, or 1e-6 where a platform's is not."""
    same = measured["log_lines_equal"] and measured["weights_equal"]
    close = measured["largest_relative_loss_difference"] < 1e-6
    return measured["steps"] and measured["reads_equal"] and (same or close)


def markdown(measured: dict[str, Any]) -> str:
    """The table."""
    first, last = measured["first_and_last_loss"]
    yes = {True: "yes", False: "**no**"}
    reads = " or ".join(map(str, measured["reads_of_a_block"]))
    lines = [
        "# Training killed and resumed",
        "",
        f"`evo pretrain` of the embedded teacher's shape from random weights on two CPU workers "
        f"(gloo), {STEPS} steps of {BATCH} sequences of {LENGTH} tokens, a checkpoint every 10, "
        f"{measured['seconds']:.0f} s undisturbed, loss {first:.3f} to {last:.3f}. The same again, "
        "killed with `kill -9` at random steps: a worker, after which the command goes on by "
        "itself, or the command (with it the Ray that it had started), after which it is run "
        "again.",
        "",
        "| killed | at step |",
        "| --- | ---: |",
        *(f"| {one['killed']} | {one['at_step']} |" for one in measured["kills"]),
        "",
        "| | |",
        "| --- | --- |",
        f"| every step in the log once, in order | {yes[measured['steps']]} |",
        f"| every line of the log equal, times aside | {yes[measured['log_lines_equal']]} |",
        "| largest relative difference of a loss | "
        f"{measured['largest_relative_loss_difference']:.1e} |",
        f"| every weight equal | {yes[measured['weights_equal']]} |",
        f"| largest difference of a weight | {measured['largest_weight_difference']:.1e} |",
        f"| each of the {TEXT_BLOCKS} blocks read as often, {reads} times | "
        f"{yes[measured['reads_equal']]} |",
        "",
        "Reads are counted from the numbers of blocks that the log has for each step "
        "(`--log-blocks`); the hash beside them, which the workers take of the tokens they read, "
        "is that of these blocks in every step.",
        "",
        sentence(measured["machine"]),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    measured = measure(options.kills, options.seed)
    (HERE / "training_interruptions.json").write_text(json.dumps(measured, indent=2) + "\n")
    (HERE / "training_interruptions.md").write_text(markdown(measured))
    print(markdown(measured))
    sys.exit(not passed(measured))


if __name__ == "__main__":
    main()
