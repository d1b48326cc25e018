"""`evo cache-logits`: run a teacher over a text once, and keep its top k."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evo.errors import UserError


@dataclass(frozen=True)
class CacheLogitsConfig:
    """Keep a teacher's likeliest tokens at every position of a text, for `evo pretrain
    --teacher-logits`.

    Give the same --text, --tokens and --sequence-length as to the runs that will read them; each
    may weigh the sources in its own way. Started again, it goes on where it was, and makes anew
    what is damaged.

    Attributes:
        teacher: checkpoint directory.
        text: sources of the text; those that would be read as streams have to be prepared first.
        tokens: of the runs.
        out: directory to make.
        top_k: tokens to keep at each position.
        sequence_length: tokens of a sequence; by default the teacher's block size, 2048 at most.
        vocabulary: the distributions are over token ids below this; by default the tokenizer's
            size. Where there is no tokenizer, that of the smaller of teacher and student.
        dtype: of the stored log-probabilities.
        precision: of the teacher's matrix products; by default bfloat16 on GPUs, float32 on the
            CPU. That of the runs.
        workers: how many run the teacher in parallel; by default one per GPU, or one.
        gpus_per_worker: a share of a GPU, or 0 for the CPU; by default 1 where there are GPUs.
        micro_batch: sequences that run through the teacher at once.
        threads: of each worker on the CPU; by default the cores divided by the workers.
    """

    teacher: Path
    text: list[str] | str
    tokens: int
    out: Path
    top_k: int = 256
    sequence_length: int | None = None
    vocabulary: int | None = None
    dtype: Literal["float16", "float32"] = "float32"
    precision: Literal["float32", "bfloat16"] | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    micro_batch: int = 8
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "top_k", "vocabulary", "workers", "micro_batch", "threads"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name.replace('_', '-')} {value}: it must be more than 0")
        if self.gpus_per_worker is not None and not 0 <= self.gpus_per_worker <= 1:
            raise UserError(
                f"--gpus-per-worker {self.gpus_per_worker}: a worker uses one GPU or a share of one"
            )


def cache_logits(config: CacheLogitsConfig) -> dict[str, Any]:
    """Make the directory, or go on with it.

    Returns:
        `sequences`, `tokens`, `bytes`, and the teacher's `flops`.

    Raises:
        UserError: bad input, a directory of something else, or no room on the disk.
    """
    # Only now: torch and Ray take seconds to import, which `--help` should not.
    from training.logits_maker import make_logits

    return make_logits(config)
