"""The shell blocks of README.md and docs/, made smaller, and the fresh home in which they run."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "docs/search.md", "docs/pretraining.md", "docs/evaluation.md",
         "docs/cluster.md", "docs/watching.md"]  # fmt: skip


def blocks(page: str) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """A block's commands as words, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line]


SMALLER = {
    "EleutherAI/pythia-6.9b": "hub/pythia-6.9b",
    "hf:Salesforce/wikitext:wikitext-103-raw-v1:validation": "held-out.txt",
    "hf:nvidia/Nemotron-CC-v2:High-Quality:train": "nemotron.txt",
    "10B": "2048",
    "385M-426M 961M-1.06B 2.64B-2.91B": "40% 60%",
    "385M-426M 961M-1.06B": "40% 60%",
    "385M-426M": "40%",
    "--gpus-per-worker 1": "--gpus-per-worker 0",
    "--workers 8": "--workers 1",
    "--generations 150": "--generations 14",
    "--samples 4": "--samples 1",
    "--stride 512": "--stride 32",
    "alpha=0.1,0.2 init=weights,random": "alpha=0.1 init=weights",
}
"""What is put smaller."""

SHORT = {
    "search": "--population 4 --generations 1 --max-tokens 2000 --workers 1 --sequence-length 64",
    "pretrain": "--threads 1 --sequence-length 64",
    "sweep": "--workers 1 --threads 1 --sequence-length 64",
    "select": "--threads 1 --sequence-length 64 --finalists 2",
    "cache-logits": "--workers 1 --threads 1 --sequence-length 64",
    "prepare": "--workers 1",
    "eval": "--sequence-length 64",
}
"""Flags that make a command short, by command."""


def smaller(text: str, flags: Mapping[str, str] = SHORT) -> str:
    """A block with smaller numbers, a command a line.

    Args:
        text: the block.
        flags: flags that a command has besides; those of the page itself come after them.
    """
    for before, after in SMALLER.items():
        text = text.replace(before, after)
    lines = text.replace("\\\n", " ").splitlines()
    return "\n".join(COMMAND.sub(lambda found: with_flags(found, flags), line) for line in lines)


COMMAND = re.compile(r"^(?:ray job submit .*-- +)?evo (?:submit .*-- +)?([\w-]+)")


def with_flags(found: re.Match[str], flags: Mapping[str, str]) -> str:
    return f"{found[0]} {flags.get(found[1], '')}"


@contextlib.contextmanager
def fresh_home(home: Path) -> Iterator[dict[str, str]]:
    """The environment of a new user, and an end of all that is left running in it.

    Args:
        home: an empty directory.
    """
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    bin = str(Path(sys.executable).parent)
    environment = {
        **kept,
        "PATH": f"{bin}{os.pathsep}{kept['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")]),
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": f"/tmp/evo-{os.getpid()}",
    }
    Path(environment["RAY_TMPDIR"]).mkdir(exist_ok=True)
    try:
        yield environment
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if any(environment["RAY_TMPDIR"] in word for word in process.info["cmdline"] or []):
                process.kill()


def run(script: str, directory: Path, environment: dict[str, str]) -> str:
    """Run a block as a shell does; its output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}"
    return done.stdout
