"""A teacher of twice the embedded one's size, for the benchmarks that want a second one.

    python -m benchmarks.larger_teacher

Trained on stdlib:train with the embedded teacher's tokenizer, 17 minutes of one core; called
again after an interruption, it goes on. It lies in evo's cache directory.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import torch
from litgpt.model import GPT

from evo.embedded import teacher_path
from evo.embedded.make import LEARNING_RATE, SHAPE
from evo.model import checkpoint
from evo.storage.files import cache_directory
from training.config import PretrainConfig
from training.loop.init_weights import initialise
from training.pretrain import pretrain

LARGER = replace(
    SHAPE, name="evo-larger", n_layer=10, n_embd=224, n_head=14, n_query_groups=14,
    head_size=16, intermediate_size=896,
)  # fmt: skip
TOKENS = 2_000_000


def larger_teacher() -> Path:
    """The checkpoint directory; made, or trained to its end, where it is not there yet."""
    home = cache_directory() / "benchmarks" / f"larger-{TOKENS}"
    if (teacher := home / "teacher").is_dir():
        return teacher
    if not (start := home / "start").is_dir():
        model = GPT(LARGER)
        initialise(model, torch.Generator().manual_seed(0))
        checkpoint.save(start, model, tokenizer_from=teacher_path())
    pretrain(
        PretrainConfig(
            model=start,
            text="stdlib:train",
            tokens=TOKENS,
            out=home / "run",
            init="random",
            validation_text="stdlib:validation",
            validation_tokens=200_000,
            batch_tokens=8192,
            learning_rate=LEARNING_RATE,
            precision="float32",  # where a CPU has no bfloat16, that takes a hundred times as long
            validate_every=150,
            checkpoint_every=100,
            threads=1,
        )
    )
    trained = checkpoint.load(home / "run" / "model")
    checkpoint.save(teacher, trained.model(), tokenizer_from=start, dtype=torch.bfloat16)
    shutil.copy(home / "run" / "log.jsonl", home / "log.jsonl")
    return teacher


if __name__ == "__main__":
    print(larger_teacher())
