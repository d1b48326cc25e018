from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from evo.errors import UserError
from evo.storage import checksums
from evo.storage.checksums import Summed, check, checksum, damaged


@pytest.fixture
def files(tmp_path: Path) -> list[Summed]:
    found = []
    for number in range(3):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(bytes([number]) * 1000)
        found.append(Summed(path.name, 1000, checksum(path)))
    return found


def test_the_checksum_is_that_of_b2sum(tmp_path: Path, files: list[Summed]) -> None:
    done = subprocess.run(
        ["b2sum", "--length", "128", tmp_path / "1.bin"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == files[1].checksum


def test_a_damaged_or_missing_file_is_named(tmp_path: Path, files: list[Summed]) -> None:
    path, whole = tmp_path / "1.bin", bytes([1]) * 1000
    check(tmp_path, files, "make it")
    for content in (whole[:-1], whole[:400] + b"\2" + whole[401:], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"1\.bin is damaged: run the same `make it` again"):
            check(tmp_path, files, "make it")
    path.unlink()
    (tmp_path / "2.bin").unlink()
    assert damaged(tmp_path, files) == {"1.bin": "missing", "2.bin": "missing"}
    with pytest.raises(UserError, match=r"1\.bin is missing, and so are 1 others"):
        check(tmp_path, files, "make it")
    path.write_bytes(whole)
    assert damaged(tmp_path, files) == {"2.bin": "missing"}


def test_only_what_has_changed_is_read_again(
    tmp_path: Path, files: list[Summed], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return checksum(path)

    monkeypatch.setattr(checksums, "checksum", counted)
    assert not damaged(tmp_path, files)
    assert sorted(read) == ["0.bin", "1.bin", "2.bin"]
    read.clear()
    assert not damaged(tmp_path, files)
    assert read == []
    (tmp_path / "0.bin").touch()
    assert not damaged(tmp_path, files)
    assert read == ["0.bin"]


def test_all_that_is_wrong_is_listed(
    tmp_path: Path, files: list[Summed], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "0.bin").write_bytes(b"")
    (tmp_path / "2.bin").unlink()
    with pytest.raises(UserError, match="and so are 1 others"):
        check(tmp_path, files, "make it")
    told = [record.getMessage() for record in caplog.records]
    assert sorted(told) == [f"{tmp_path}/0.bin is damaged", f"{tmp_path}/2.bin is missing"]


def test_a_cache_that_cannot_be_written_ends_nothing(
    tmp_path: Path,
    files: list[Summed],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVO_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        assert damaged(tmp_path, files) == {}
    (told,) = [record.getMessage() for record in caplog.records]
    assert "cannot write" in told
