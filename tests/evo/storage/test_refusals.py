"""A file system that is full is named, whichever library meets it."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import save_file

from evo.errors import UserError
from evo.storage.files import atomic_directory, atomic_file, output_errors, write_whole
from evo.storage.refusals import is_full, refusal
from tests.support.disks import SmallDisk, mounted

NUMBERS = np.random.default_rng(0).random(6000)
NAMED = {f"part-{number}": NUMBERS[number * 300 :][:300] for number in range(20)}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDisk]:
    with mounted(tmp_path_factory.mktemp("disk") / "small", 2**20) as small:
        yield small


def write_arrow(path: Path) -> None:
    batch = pa.record_batch([pa.array(NUMBERS)], names=["numbers"])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


def write_with_numpy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, NUMBERS)


def write_with_torch(path: Path) -> None:
    with path.open("wb") as file:
        torch.save({name: torch.from_numpy(part) for name, part in NAMED.items()}, file)


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: path.write_text("a line\n" * 7000),
    "numpy": write_with_numpy,
    "arrow": write_arrow,
    "parquet": lambda path: pd.DataFrame({"numbers": NUMBERS}).to_parquet(path),
    "safetensors": lambda path: save_file(NAMED, path),
    "torch": write_with_torch,
    "torch by a name": lambda path: torch.save(NAMED, path),
}


def refused(path: Path, kind: str) -> str | None:
    """Write a file; what that is refused with."""
    try:
        with atomic_file(path) as temporary:
            WRITERS[kind](temporary)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", WRITERS)
def test_every_library_names_a_full_disk_and_leaves_what_was_there(
    disk: SmallDisk, kind: str
) -> None:
    path = disk.path / "out"
    met = 0
    for free in range(0, 60 * 1024, 4000):
        path.write_bytes(b"before")
        disk.fill(but=free)
        if error := refused(path, kind):
            met += 1
            where = f"(on the file system at {disk.path})"
            assert error == f"cannot write {path}: No space left on device {where}"
            assert path.read_bytes() == b"before"
        disk.empty()
        assert sorted(each.name for each in disk.path.iterdir()) == ["out"]
    assert met >= 3


def test_a_directory_on_a_full_disk_is_not_left_half(disk: SmallDisk) -> None:
    (disk.path / "out").unlink(missing_ok=True)
    disk.fill(but=20_000)
    with pytest.raises(UserError, match="No space left on device"):
        with atomic_directory(disk.path / "out") as temporary:
            WRITERS["torch"](temporary / "weights")
    disk.empty()
    assert not list(disk.path.iterdir())


def test_a_limit_of_a_files_size_is_told(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1]))
    try:
        error = refused(tmp_path / "out", "torch")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error == f"cannot write {tmp_path / 'out'}: File too large"
    assert not list(tmp_path.iterdir())


def test_an_input_that_is_not_there_is_no_failure_to_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "out" / "file"):
        (tmp_path / "input").read_text()
    with pytest.raises(UserError, match=r"cannot write .*: No such file"):
        with output_errors(tmp_path / "out" / "file"):
            (tmp_path / "out" / "part").read_text()


def test_other_errors_are_left_alone(tmp_path: Path) -> None:
    for error in (ValueError("a shape"), RuntimeError("a shape"), KeyError("a")):
        assert refusal(error, tmp_path / "out") is None
        assert not is_full(error)
        with pytest.raises(type(error)), atomic_file(tmp_path / "out"):
            raise error
    write_whole(tmp_path / "out", "1")
