"""A study of three bins and four spaces, killed with kill -9 at five random moments and resumed.

    python -m benchmarks.pool.interruptions

Runs the same `evo search` undisturbed and killed, and compares what the two leave: summaries and
histories must be equal, times and directories aside. Writes interruptions.json and
interruptions.md beside this file.
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
import pandas as pd
import pyarrow.parquet as pq

from benchmarks.machine import measured_on, sentence
from evo.embedded import teacher_path

BINS, SPACES = ("20%", "35%", "50%"), (
    "coarse-uniform", "coarse-layerwise", "fine-uniform", "fine-layerwise",
)  # fmt: skip
TIMES = ("seconds", "winner")
HERE = Path(__file__).parent


def start(out: Path) -> subprocess.Popen[bytes]:
    """The study, as a user starts it."""
    flags = [
        "--teacher", str(teacher_path()), "--text", "stdlib:validation", "--max-tokens", "16384",
        "--bins", *BINS, "--spaces", *SPACES, "--population", "16", "--generations", "5",
        "--out", str(out),
    ]  # fmt: skip
    log = (out.parent / f"{out.name}.log").open("ab")
    command = [sys.executable, "-m", "evo", "search", *flags, "--no-score-cache"]
    return subprocess.Popen(command, stdout=log, stderr=log)


def result(out: Path) -> dict[str, Any]:
    """What a finished study left, without what may differ."""
    summary = json.loads((out / "summary.json").read_text())
    for search in summary["searches"]:
        for name in TIMES:
            search.pop(name)
    histories = {
        path.parent.name: pd.read_parquet(path).drop(columns="seconds")
        for path in sorted((out / "searches").glob("*/history.parquet"))
    }
    return {"summary": summary, "histories": histories}


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of what is not equal."""
    names = [name for name in one["summary"] if one["summary"][name] != other["summary"][name]]
    names += sorted(set(one["histories"]) ^ set(other["histories"]))
    for name in set(one["histories"]) & set(other["histories"]):
        if not one["histories"][name].equals(other["histories"][name]):
            names.append(name)
    return names


def evaluations_in(out: Path) -> int:
    """Of all histories so far."""
    paths = out.glob("searches/*/history.parquet")
    return sum(pq.read_metadata(path).num_rows for path in paths)


def measure(kills: int, seed: int) -> dict[str, Any]:
    """Both runs."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as directory:
        whole, killed = Path(directory) / "whole", Path(directory) / "killed"
        began = time.monotonic()
        assert start(whole).wait() == 0, (Path(directory) / "whole.log").read_text()
        seconds = time.monotonic() - began
        evaluations = evaluations_in(whole)
        moments = []
        # Moments by how far the study is, the last before its end; then up to two seconds more, as
        # histories grow by generations.
        for target in np.sort(rng.uniform(0, 0.9 * evaluations, kills)):
            process, began = start(killed), time.monotonic()
            while evaluations_in(killed) < target and process.poll() is None:
                time.sleep(0.1)
            time.sleep(rng.uniform(0, 2))
            assert process.poll() is None, (Path(directory) / "killed.log").read_text()
            process.kill()
            process.wait()
            after = round(time.monotonic() - began, 1)
            moments.append({"after_seconds": after, "evaluations": evaluations_in(killed)})
            print(moments[-1], flush=True)
        assert start(killed).wait() == 0, (Path(directory) / "killed.log").read_text()
        one, other = result(whole), result(killed)
    return {
        "searches": len(one["histories"]),
        "evaluations": evaluations,
        "seconds": round(seconds, 1),
        "kills": moments,
        "differences": differences(one, other),
        "machine": measured_on(("torch", "ray")),
    }


def markdown(measured: dict[str, Any]) -> str:
    """The table."""
    verdict = "nothing" if not measured["differences"] else ", ".join(measured["differences"])
    lines = [
        "# Killed and resumed",
        "",
        f"{measured['searches']} searches ({len(BINS)} bins, {len(SPACES)} spaces) on the embedded "
        f"teacher as one command, {measured['evaluations']} evaluations, "
        f"{measured['seconds']:.0f} s undisturbed. The same command killed with `kill -9`, run "
        "again each time, and at last left to end:",
        "",
        "| killed after | evaluations in the histories then |",
        "| ---: | ---: |",
        *(f"| {one['after_seconds']} s | {one['evaluations']} |" for one in measured["kills"]),
        "",
        f"What differs in `summary.json` and the histories, times and paths aside: **{verdict}**.",
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
    (HERE / "interruptions.json").write_text(json.dumps(measured, indent=2) + "\n")
    (HERE / "interruptions.md").write_text(markdown(measured))
    print(markdown(measured))
    sys.exit(bool(measured["differences"]))


if __name__ == "__main__":
    main()
