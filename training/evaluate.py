"""Perplexity of a checkpoint on a text."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from evo import checkpoint
from evo.errors import UserError
from evo.nll import summed_nll
from evo.text import load_text, sequence_length_of

BLOCKS_PER_UPDATE = 64


def evaluate(
    model: Path,
    text: str,
    *,
    sequence_length: int | None = None,
    max_tokens: int | None = None,
    micro_batch: int = 8,
    device: str | None = None,
) -> dict[str, float]:
    """Mean negative log-likelihood per target token, in float32; progress is shown on stderr.

    Args:
        model: checkpoint directory.
        text: a source, see `evo.text`.
        sequence_length: tokens of a block; by default the model's block size, 2048 at most.
        max_tokens: use no more of the text; by default all.
        micro_batch: blocks that run through the model at once.
        device: torch's name of it; by default a GPU where there is one.

    Returns:
        `nll` in nats per token, `perplexity` its exponential, `tokens` the number of targets: a
        block of T tokens has T-1.

    Raises:
        UserError: bad input.
    """
    if micro_batch < 1:
        raise UserError(f"--micro-batch {micro_batch}: it must be at least 1")
    stored = checkpoint.load(model)
    blocks = load_text(
        text,
        tokenizer=stored.tokenizer,
        vocabulary=stored.vocabulary,
        sequence_length=sequence_length_of(sequence_length, stored.config.block_size),
        max_tokens=max_tokens,
    ).blocks
    network = stored.model().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    console = Console(stderr=True)
    sums = [
        summed_nll(network, blocks[start : start + BLOCKS_PER_UPDATE], micro_batch=micro_batch)
        for start in track(
            range(0, len(blocks), BLOCKS_PER_UPDATE),
            description=f"{model}",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    ]
    tokens = len(blocks) * (blocks.shape[1] - 1)
    nll = math.fsum(value for part in sums for value in part) / tokens
    return {"nll": nll, "perplexity": math.exp(nll) if nll < 700 else math.inf, "tokens": tokens}
