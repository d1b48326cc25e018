"""Every command that writes names a disk that is full, and leaves nothing half-written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evo.cli import main
from tests.support import finished
from tests.support.disks import SmallDisk, mounted


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with mounted(tmp_path_factory.mktemp("disk") / "small", 2**23) as small:
        yield small


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, teacher: Callable[[str], Path]) -> Path:
    """A finished search, two pretraining runs of it, and their parts."""
    root = tmp_path_factory.mktemp("finished")
    (root / "search").mkdir()
    (root / "pretrain").mkdir()
    finished.searched(root / "search", teacher("llama-tied"), generations=1)
    finished.pretrained(root / "pretrain")
    return root


def assert_told(disk: SmallDisk, error: str) -> None:
    (line,) = error.splitlines()[-1:]
    assert f"No space left on device (on the file system at {disk.path})" in line
    assert f"cannot write {disk.path / 'out'}" in line
    assert "Traceback" not in error


@pytest.mark.parametrize("free", [0, 5000])
@pytest.mark.parametrize(
    "command",
    [
        "extract {root}/search/run --search coarse-uniform@40% --out {out}",
        "report {root}/search/run --out {out}",
        "compare {root}/pretrain/run --out {out}",
        "export {root}/pretrain/model --no-verify --out {out}",
        "import {hf} --no-verify --out {out}",
        "eval {root}/pretrain/model --text {root}/pretrain/text.npy --out {out}/result.json",
    ],
    ids=lambda command: command.partition(" ")[0],
)
def test_a_command_names_the_disk(
    command: str,
    free: int,
    disk: SmallDisk,
    root: Path,
    hf_checkpoint: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command.startswith("eval") and free:
        pytest.skip("a result has fewer bytes than that")
    disk.fill(but=free)
    given = {"root": root, "out": disk.path / "out", "hf": hf_checkpoint("llama-tied")}
    code = main(command.format(**given).split())
    disk.empty()
    assert code == 2
    assert_told(disk, capsys.readouterr().err)
    left = [path for path in disk.path.rglob("*") if path.is_file()]
    assert all(path.suffix in (".png", ".json") for path in left)  # each of them whole
    for path in left:
        path.unlink()


SEARCH = (
    "search --teacher {teacher} --text {tokens} --bins 40% --population 4 --generations 2 "
    "--workers 1 --sequence-length 40 --no-score-cache --out {out}"
)
PRETRAIN = (
    "pretrain --model {root}/pretrain/model --text {root}/pretrain/text.npy --tokens 816 "
    "--workers 1 --threads 1 --sequence-length 17 --out {out}"
)
SWEEP = (
    "sweep --model {root}/pretrain/model --text {root}/pretrain/text.npy --tokens 816 "
    "--validation-text {root}/pretrain/validation.npy --grid learning_rate=0.1,0.01 "
    "--threads 1 --out {out}"
)
PREPARE = "prepare --text {text} --tokenizer {tokenizer} --workers 1 --out {out}"
CACHE_LOGITS = (
    "cache-logits --teacher {root}/pretrain/model --text {root}/pretrain/text.npy "
    "--tokens 816 --workers 1 --threads 1 --top-k 16 --out {out}"
)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(
    ("command", "free"),
    [(SEARCH, 0), (PREPARE, 0), (SEARCH, 20_000), (PRETRAIN, 20_000), (SWEEP, 20_000),
     (PREPARE, 20_000), (CACHE_LOGITS, 20_000)],
    ids=lambda value: str(value).partition(" ")[0],
)  # fmt: skip
def test_a_command_on_ray_names_the_disk(
    command: str,
    free: int,
    disk: SmallDisk,
    root: Path,
    teacher: Callable[[str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from evo.embedded import teacher_path

    (tmp_path / "text.txt").write_text("A line of text, and another one.\n" * 2000)
    given: dict[str, Any] = {
        "root": root,
        "out": disk.path / "out",
        "teacher": teacher("llama-tied"),
        "tokens": root / "search" / "tokens.npy",
        "text": tmp_path / "text.txt",
        "tokenizer": teacher_path(),
    }
    shutil.rmtree(disk.path / "out", ignore_errors=True)  # another command's
    disk.fill(but=free)
    code = main(command.format(**given).split())
    error = capfd.readouterr().err
    assert code == 2, error
    if free and command.startswith("cache-logits"):  # it looks for room before it writes a shard
        assert re.search(r"out has [\d.]+ kB of room, and up to [\d.]+ kB are needed: give", error)
    else:
        assert_told(disk, error)
    disk.empty()
    if not free or command == SWEEP:  # nothing was written, or what pretraining writes
        return
    # With space again, the same command goes on.
    assert main(command.format(**given).split()) == 0, capfd.readouterr().err


def test_output_that_goes_to_a_full_disk_is_one_line(root: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "evo", "compare", str(root / "pretrain" / "run")],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
    assert done.returncode == 2
    assert done.stderr == "evo compare: cannot write: No space left on device\n"
