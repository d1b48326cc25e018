"""The small teacher that ships with the package, made by `make.py` in this directory.

A GPT-NeoX in Pythia's shape, 3.1M parameters, trained on the source text of Python's standard
library, with a byte-level BPE tokenizer of 2048 tokens.
"""

from __future__ import annotations

from pathlib import Path


def teacher_path() -> Path:
    """The embedded teacher's checkpoint directory."""
    return Path(__file__).parent / "teacher"
