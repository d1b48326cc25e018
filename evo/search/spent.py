"""The time that a run takes, counted over all its starts."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

from typing_extensions import TypedDict

from evo.storage.files import write_whole
from evo.storage.records import Amount, read_json_if_there

FILE = "spent.json"
WRITE_SECONDS = 10.0
"""The time that a run has taken is written down this often; a kill loses at most so much."""


class SpentFile(TypedDict):
    """`spent.json`."""

    seconds: Amount
    gpu_seconds: Amount


class Spent:
    """The time that a run has taken so far, over all its starts.

    Args:
        run: its directory.

    Attributes:
        seconds: in which searches went on.
        gpu_seconds: the same, times the GPUs of the workers.

    Raises:
        UserError: its file is damaged.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / FILE
        before = read_json_if_there(self._path, SpentFile, "remove it to count from 0")
        self.seconds = float(before["seconds"]) if before else 0.0
        self.gpu_seconds = float(before["gpu_seconds"]) if before else 0.0
        self._last: float | None = None
        self._written = -math.inf

    def tick(self, gpus: float, now: Callable[[], float] = time.monotonic) -> None:
        """Count the time since the last tick; the first one begins.

        Args:
            gpus: of the workers at present.
            now: a clock, seconds.

        Raises:
            UserError: it cannot be written down.
        """
        moment = now()
        if self._last is not None:
            passed = max(0.0, moment - self._last)
            self.seconds += passed
            self.gpu_seconds += passed * gpus
        self._last = moment
        if moment - self._written >= WRITE_SECONDS:
            self.write()
            self._written = moment

    def write(self) -> None:
        """Write the time down.

        Raises:
            UserError: the disk is full, or the like.
        """
        content = {"seconds": self.seconds, "gpu_seconds": self.gpu_seconds}
        write_whole(self._path, json.dumps(content) + "\n")
