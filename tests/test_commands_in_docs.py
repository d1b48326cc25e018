"""The commands of README.md and docs/: all are parsed, and what needs no network is run as it
stands, in a fresh home; large teachers, texts and numbers are put smaller."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from evo.cli import COMMANDS, _apart, _parse
from evo.embedded import teacher_path
from tests.support.corpora import random_documents

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/search.md", "docs/pretraining.md", "docs/evaluation.md",
         "docs/cluster.md"]  # fmt: skip


def blocks(page: str) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[list[str]]:
    """A block's commands as words, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line]


def evo_commands() -> list[list[str]]:
    found = [line for page in PAGES for block in blocks(page) for line in commands(block)]
    return [line[line.index("evo") + 1 :] for line in found if "evo" in line]


@pytest.mark.parametrize("command", evo_commands(), ids=lambda words: " ".join(words)[:60])
def test_every_command_is_parsed(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path, tokens="10B")
    name, *rest = command
    assert name in COMMANDS
    if COMMANDS[name].takes_command:
        rest, _ = _apart(rest)
    _parse(name, rest)


def test_there_are_commands_on_every_page_that_has_blocks() -> None:
    assert len(evo_commands()) >= 19
    every = [line for page in PAGES for block in blocks(page) for line in commands(block)]
    others = {line[0] for line in every if "evo" not in line}
    assert others <= {"make", "ray", "export", "rm"}


def test_make_knows_its_targets() -> None:
    for line in commands(blocks("README.md")[0]):
        done = subprocess.run(
            ["make", "-n", *line[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def write_config(directory: Path, *, tokens: str) -> None:
    """pretrain.yaml, which README's sweep reads."""
    (directory / "pretrain.yaml").write_text(
        "model: runs/pythia-6.9b/searches/fine-layerwise@385M-426M/winner\n"
        "text: corpora/nemotron-cc\nteacher: teachers/pythia-6.9b\n"
        f"tokens: {tokens}\nvalidation_text: held-out.txt\n"
    )


SMALLER = {
    "EleutherAI/pythia-6.9b": "hub/pythia-6.9b",
    "hf:Salesforce/wikitext:wikitext-103-raw-v1:validation": "held-out.txt",
    "hf:nvidia/Nemotron-CC-v2:High-Quality:train": "nemotron.txt",
    "10B": "2048",
    "385M-426M 961M-1.06B 2.64B-2.91B": "40% 60%",
    "385M-426M": "40%",
    "--gpus-per-worker 1": "--gpus-per-worker 0",
    "--workers 8": "--workers 1",
    "--samples 4": "--samples 1",
    "--stride 512": "--stride 32",
    "alpha=0.1,0.2 init=weights,random": "alpha=0.1 init=weights",
}
"""What is put smaller."""

ADDED = {
    "search": "--population 4 --generations 1 --max-tokens 2000 --workers 1 --sequence-length 64",
    "pretrain": "--threads 1 --sequence-length 64",
    "sweep": "--workers 1 --threads 1 --sequence-length 64",
    "select": "--threads 1 --sequence-length 64 --finalists 2",
    "cache-logits": "--workers 1 --threads 1 --sequence-length 64",
    "prepare": "--workers 1",
    "eval": "--sequence-length 64",
}
"""Flags that make a command short, by command."""


def smaller(text: str) -> str:
    for before, after in SMALLER.items():
        text = text.replace(before, after)
    lines = text.replace("\\\n", " ").splitlines()
    return "\n".join(_with_added(line) for line in lines)


def _with_added(line: str) -> str:
    code, mark, comment = line.partition("#")
    found = re.match(r"^\s*(?:ray job submit .* -- +)?evo ([\w-]+)", code)
    added = ADDED.get(found[1], "") if found else ""
    return f"{code.rstrip()} {added} {mark}{comment}"


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a new user, and an end of all that is left running in it."""
    ray.shutdown()  # the agents of two Rays would want the same ports
    home = tmp_path_factory.mktemp("home")
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
    yield environment
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


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_they_run_in_a_fresh_home(home: dict[str, str], tmp_path: Path) -> None:
    for name, lines in (("held-out.txt", 300), ("nemotron.txt", 2000)):
        (tmp_path / name).write_text("\n".join(random_documents(lines, 0)))
    export = f"evo export {teacher_path()} --to hf --native --out hub/pythia-6.9b"
    run(export, tmp_path, home)
    first, second, third = blocks("README.md")
    assert "make quickstart" in first

    # The cluster's block, in which `/shared` is ours, with the teacher that it names.
    run("evo import hub/pythia-6.9b --out teachers/pythia-6.9b", tmp_path, home)
    *before, submit = [line for line in smaller(third).splitlines() if line.strip()]
    submit = submit.replace("/shared/runs/pythia-6.9b", f"{tmp_path}/job")
    submit = submit.replace("/shared", str(tmp_path))
    (tmp_path / "empty").mkdir()
    submit = submit.replace("--working-dir .", "--working-dir empty")
    variables = home | {"RAY_AUTH_MODE": "token"}
    run("\n".join(before), tmp_path, home)
    for _ in range(10):
        done = subprocess.run(
            ["bash", "-c", submit], cwd=tmp_path, env=variables, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(3)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "job" / "summary.json").is_file()

    # The others share that cluster.
    variables["RAY_ADDRESS"] = "127.0.0.1:6379"
    write_config(tmp_path, tokens="2048")
    config = tmp_path / "pretrain.yaml"
    config.write_text(smaller(config.read_text()))
    run("rm -r teachers", tmp_path, variables)
    text = smaller(second)
    head, compare = text.split("evo compare", 1)
    run(head, tmp_path, variables)
    random = re.search(r"^evo pretrain .*$", text, re.MULTILINE)
    assert random is not None
    made = random[0].replace("410m-distilled", "410m-random")
    run(made.partition("#")[0] + " --init random", tmp_path, variables)
    run(f"evo compare{compare}", tmp_path, variables)
    assert (tmp_path / "410m" / "config.json").is_file()

    logits, *_ = blocks("docs/pretraining.md")
    run(smaller(logits), tmp_path, variables)
    (resumed,) = [block for block in blocks("docs/pretraining.md") if "--resume-from" in block]
    long = made.replace("410m-random", "410m").partition("#")[0]
    run(f"{long} --keep-every 2 --batch-tokens 256", tmp_path, variables)
    steps = sorted((tmp_path / "runs/410m/checkpoints").glob("step-*"))
    assert len(steps) > 3
    resumed = smaller(resumed).replace("step-5000", "step-2")
    resumed = resumed.replace("step-6000", "step-4").replace("step-7000", "step-6")
    run(resumed.replace("evo pretrain", "evo pretrain --batch-tokens 256"), tmp_path, variables)
    (harness,) = blocks("docs/evaluation.md")
    harness = harness.replace("MODEL", "runs/410m/model").replace("DIR", "exported")
    offline = [line for line in smaller(harness).splitlines() if "--tasks" not in line]
    run("\n".join(offline), tmp_path, variables)
