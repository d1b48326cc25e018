"""The settings of `evo import` and `evo export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evo.errors import UserError


@dataclass(frozen=True)
class ImportConfig:
    """What to import, and how.

    Attributes:
        checkpoint: a Hugging Face checkpoint directory, or a repo id such as
            EleutherAI/pythia-410m, which is downloaded.
        out: the teacher's directory; must not exist yet, or be empty.
        dtype: of the stored weights: float32, bfloat16, float16, or keep (as they are).
        revision: branch, tag or commit of a repo id.
        verify: compare the logits with transformers' on random tokens, in float32 (where
            transformers is installed). It needs memory for the model twice, in float32.

    Raises:
        UserError: an unknown dtype.
    """

    checkpoint: str
    out: Path
    dtype: Literal["keep", "float32", "bfloat16", "float16"] = "keep"
    revision: str | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in ("keep", "float32", "bfloat16", "float16"):
            raise UserError(f"dtype {self.dtype!r} is none of keep, float32, bfloat16, float16")


@dataclass(frozen=True)
class ExportConfig:
    """Write a checkpoint as a Hugging Face directory that transformers loads.

    By default it brings a small modelling file with it, which expresses every winner:
    AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True).

    Attributes:
        model: checkpoint directory: a teacher, a winner, or a pretrained one.
        out: directory to make.
        to: the format.
        native: use the family's own class in transformers, which needs no code of ours; refused
            where it cannot say this network exactly.
        verify: load what was written, and compare its logits on random tokens, in float32 (where
            transformers is installed). It needs memory for the model twice, in float32.

    Raises:
        UserError: an unknown format.
    """

    model: Path
    out: Path
    to: Literal["hf"] = "hf"
    native: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        if self.to != "hf":
            raise UserError(f"--to {self.to}: hf is the only format")
