"""evo against whittle 0.6: the same teacher, text, bin and number of evaluations.

    python -m benchmarks.whittle.vs_whittle [--seeds 3 --generations 9 --tokens 8192]

The embedded teacher, its own validation text, coarse-uniform, a quarter of its parameters. whittle
is installed in an environment of its own, in evo's cache directory; what runs there is
whittle_search.py beside this file. Every search is a process of its own with one thread per scorer,
started, timed and measured in the same way, one after another. Then what each can do at all:
extraction in the four spaces, counting, resuming, scoring in parallel. Writes vs_whittle.json,
vs_whittle.md and vs_whittle.png beside this file. About a quarter of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import measured_on
from benchmarks.whittle.whittle_abilities import abilities, evo_resumes, whittle_resumes
from benchmarks.whittle.whittle_report import markdown, picture
from benchmarks.whittle.whittle_runs import CONTENDERS, Setting, run_evo, run_whittle
from evo.data.token_blocks import load_text
from evo.embedded import teacher_path
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.storage.files import cache_directory

HERE = Path(__file__).parent
TEXT = "stdlib:validation"
CONSTRAINTS = HERE / "whittle_constraints.txt"
TORCH = "torch==2.13.0"
PACKAGES = ("whittle==0.6.0", "litgpt==0.5.12", "pyarrow<21", "nvidia-ml-py")


def environment() -> Path:
    """whittle's Python, installed if it is not there."""
    directory = cache_directory() / "benchmarks" / "whittle"
    python, done = directory / "bin" / "python", directory / ".installed"
    if done.is_file():
        return python
    shutil.rmtree(directory, ignore_errors=True)
    base = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
    subprocess.run([base, "-m", "venv", directory], check=True)
    # torch first and held, as everything is: an open range would bring gigabytes of CUDA
    for packages in ((TORCH,), PACKAGES):
        command = [python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, *packages]
        subprocess.run(command, check=True)
    # whittle asks for torchvision, whose default build does not load beside a CPU build of torch,
    # and then torchmetrics does not either; whittle's search needs neither
    subprocess.run([python, "-m", "pip", "uninstall", "-y", "torchvision"], check=True)
    done.touch()
    return python


def prepare(generations: int, tokens: int, work: Path) -> tuple[Path, Setting]:
    """whittle's Python, and what all searches share."""
    python = environment()
    teacher = checkpoint.load(teacher_path())
    blocks = load_text(
        TEXT,
        tokenizer=teacher.tokenizer,
        vocabulary=teacher.vocabulary,
        sequence_length=teacher.config.block_size,
        max_tokens=tokens,
    ).blocks
    text = work / "text.npy"
    np.save(text, blocks)
    return python, Setting(teacher, blocks, text, generations, work)


def measure(seeds: int, generations: int, tokens: int, work: Path) -> dict[str, Any]:
    """All figures."""
    python, setting = prepare(generations, tokens, work)
    teacher, blocks = setting.teacher, setting.blocks
    versions = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True
    )
    machine = measured_on(("torch", "litgpt", "ray", "numpy"))
    able = abilities(python, setting)
    resume = {"whittle": whittle_resumes(python, setting), "evo": evo_resumes(setting)}
    runs = []
    for seed in range(seeds):
        for contender in CONTENDERS:
            if seed and not contender.every_seed:
                continue
            print(f"{contender.name}, seed {seed}", file=sys.stderr, flush=True)
            load = os.getloadavg()[0]
            if contender.strategy:
                figures = run_whittle(python, setting, contender, seed)
            else:
                figures = run_evo(setting, contender, seed)
            runs.append({"name": contender.name, "seed": seed, "load_before": load, **figures})
    return {
        "machine": machine,
        "whittle_environment": {
            one["name"]: one["version"]
            for one in json.loads(versions.stdout)
            if one["name"] in ("whittle", "litgpt", "torch", "pyarrow", "syne_tune", "lightning")
        },
        "bin": setting.bin,
        "text": {"source": TEXT, "blocks": list(blocks.shape)},
        "teacher_nll": setting.nll(Subnet.full(teacher.architecture.dimensions)),
        "evaluations": setting.evaluations,
        "seeds": seeds,
        "runs": runs,
        "abilities": able,
        "resume": resume,
    }


def main() -> None:
    """Measure, print, and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--generations", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=HERE, help="where the results are written")
    parser.add_argument(
        "--abilities", action="store_true", help="try only these again; the searches' figures stay"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vs_whittle-") as work:
        if options.abilities:
            result = json.loads((options.out / "vs_whittle.json").read_text())
            python, setting = prepare(options.generations, options.tokens, Path(work))
            result["abilities"] = abilities(python, setting)
        else:
            result = measure(options.seeds, options.generations, options.tokens, Path(work))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "vs_whittle.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "vs_whittle.md").write_text(markdown(result))
    picture(result, options.out / "vs_whittle.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
