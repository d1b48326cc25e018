"""The commands of README.md and docs/: all are parsed, and what needs no network is run as it
stands, in a fresh home; large teachers, texts and numbers are put smaller."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from evo.cli import COMMANDS, _apart, _parse
from evo.embedded import teacher_path
from tests.support.corpora import random_documents
from tests.support.heads import running_head
from tests.support.pages import PAGES, ROOT, blocks, commands, fresh_home, run, smaller


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


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.own_cluster
@pytest.mark.timeout(1800)
def test_they_run_in_a_fresh_home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, lines in (("held-out.txt", 300), ("nemotron.txt", 2000)):
        (tmp_path / name).write_text("\n".join(random_documents(lines, 0)))
    with fresh_home(tmp_path_factory.mktemp("home")) as home, running_head() as head:
        _run_all(tmp_path, home | head.variables)


def _run_all(tmp_path: Path, variables: dict[str, str]) -> None:
    export = f"evo export {teacher_path()} --to hf --native --out hub/pythia-6.9b"
    run(export, tmp_path, variables)
    first, second = blocks("README.md")
    assert "make quickstart" in first
    write_config(tmp_path, tokens="2048")
    config = tmp_path / "pretrain.yaml"
    config.write_text(smaller(config.read_text()))
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
