"""Small file systems that can be filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted file system in memory.

    Args:
        path: where it is mounted.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, *, but: int) -> None:
        """Leave this number of bytes, up to a page of memory."""
        self.empty()
        status = os.statvfs(self.path)
        with self._filler.open("wb") as file:
            file.write(bytes(max(0, status.f_bavail * status.f_frsize - but)))

    def empty(self) -> None:
        """Take the filling away."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def mounted(path: Path, size: int) -> Iterator[SmallDisk]:
    """Mount a file system of so many bytes; the test is skipped where nobody may.

    Args:
        path: directory to make.
        size: in bytes.
    """
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
