"""Scores of earlier runs, on disk: a unit that any run has scored before is not scored again.

A directory for every way of scoring (teacher, text, settings), and in it a file for every process
that has written. A process appends to its own file only, whole lines with a checksum, and reads
those of all: so several jobs may write at once, over NFS too, and a line that a kill left torn, or
that has not arrived yet, counts for nothing. How the teacher's parts were ranked is no part of it,
as a candidate's id is over the teacher's own coordinates.

Everything in it can be made again: `rm -r ~/.cache/evo/scores` clears it.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import secrets
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.errors import UserError
from evo.search.shard_score import ShardScore
from evo.storage.cache import do_without
from evo.storage.files import output_errors, write_whole

REFRESH_SECONDS = 10.0
"""What others have written is looked for no more often."""


class ScoreCache:
    """The scores of one way of scoring. Failures are not kept: they may be the machine's.

    Args:
        root: of all caches of scores.
        key: what a score depends on besides the candidate and the sequences; JSON.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, root: Path, key: Mapping[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True, indent=2)
        self.directory = root / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        if not (self.directory / "key.json").is_file():
            write_whole(self.directory / "key.json", text + "\n")
        host = platform.node().partition(".")[0]
        self._own = self.directory / f"{host}-{os.getpid()}-{secrets.token_hex(4)}.scores"
        self._lines: dict[bytes, bytes] = {}
        self._read: dict[str, int] = {}
        self._refreshed = -REFRESH_SECONDS
        self._writes = True
        self.refresh()

    def get(self, candidate: str, rows: tuple[int, int]) -> ShardScore | None:
        """The score of a candidate on a shard's rows, if any run has it."""
        rest = self._lines.get(_name(candidate, rows))
        if rest is None:
            return None
        tokens, nll, *divergence = rest.split(b" ")
        return ShardScore(
            _floats(nll),
            int(tokens),
            0.0,
            divergence=_floats(divergence[0]) if divergence else None,
        )

    def put(self, scores: Iterable[tuple[str, tuple[int, int], ShardScore]]) -> None:
        """Write down the scores of candidates on rows, as long as the disk takes them.

        Failures, and scores that are there already, are left out.
        """
        lines = []
        for candidate, rows, score in scores:
            name = _name(candidate, rows)
            if name in self._lines or score.failure is not None:
                continue
            losses = (score.nll,) if score.divergence is None else (score.nll, score.divergence)
            rest = b" ".join([b"%d" % score.tokens, *map(_text, losses)])
            self._lines[name] = rest
            lines.append(_with_checksum(name + b" " + rest))
        if lines and self._writes:
            try:
                # Closed every time: what is closed is what others see over NFS.
                with output_errors(self._own), self._own.open("ab") as file:
                    file.write(b"".join(lines))
            except UserError as error:
                self._writes = False
                do_without(error)

    def refresh(self) -> None:
        """Read what other processes have written since, if it was not looked for a moment ago."""
        if time.monotonic() - self._refreshed < REFRESH_SECONDS:
            return
        self._refreshed = time.monotonic()
        try:
            for entry in os.scandir(self.directory):
                read = self._read.get(entry.name, 0)
                if entry.name.endswith(".scores") and entry.name != self._own.name:
                    with open(entry.path, "rb") as file:
                        file.seek(read)
                        self._read[entry.name] = read + self._take(file.read())
        except OSError as error:
            do_without(error)

    def _take(self, content: bytes) -> int:
        """Take in whole lines; the number of bytes that they are."""
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines(keepends=True):
            checked = line[9:-1]
            if line == _with_checksum(checked):
                candidate, start, stop, rest = checked.split(b" ", 3)
                self._lines.setdefault(b" ".join((candidate, start, stop)), rest)
        return whole


def score_key(
    teacher: str, blocks: NDArray[np.integer], scoring: Mapping[str, Any]
) -> dict[str, Any]:
    """What can change the bits of a score.

    Args:
        teacher: hash of its weights and configuration.
        blocks: token ids in the order in which they are cut into units, shape [N, T].
        scoring: the settings of scoring: device, dtype, micro-batch, threads, fitness.

    Returns:
        These, and the versions of what computes them, this package's own sources among them:
        whoever changes how scores come about shall not read old ones.
    """
    text = hashlib.blake2b(str(blocks.shape).encode(), digest_size=8)
    text.update(np.ascontiguousarray(blocks, "<i4").data)
    return {
        "teacher": teacher,
        "text": text.hexdigest(),
        "scoring": dict(scoring),
        "sources": _sources("evo", "workers"),
        "torch": importlib.metadata.version("torch"),
        "litgpt": importlib.metadata.version("litgpt"),
        "processor": _processor(),
    }


def _name(candidate: str, rows: tuple[int, int]) -> bytes:
    return f"{candidate} {rows[0]} {rows[1]}".encode()


def _with_checksum(line: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(line), line)


def _text(losses: tuple[float, ...]) -> bytes:
    return base64.b64encode(np.array(losses, "<f8").tobytes())


def _floats(text: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(base64.b64decode(text), "<f8").tolist())


def _sources(*packages: str) -> str:
    """The hash of all sources of these packages."""
    digest = hashlib.blake2b(digest_size=8)
    for package in packages:
        found = importlib.util.find_spec(package)
        assert found is not None
        assert found.origin is not None
        for path in sorted(Path(found.origin).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    """The kind of CPU: another one may round differently."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
