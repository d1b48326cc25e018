"""The number of damaged, odd or hostile inputs: `benchmarks/hostile_inputs.py` adds them up."""

from __future__ import annotations

import json
import os
from pathlib import Path

VARIABLE = "EVO_COUNT_INPUTS"
"""The environment's name of a file to which counts are added."""


def tried(kind: str, inputs: int = 1) -> None:
    """Count inputs of a kind, where somebody counts."""
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps([kind, inputs]) + "\n")
