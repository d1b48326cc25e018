"""A checkpoint's perplexity on a text, or its scores on tasks."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from evo.data.prepared_corpus import is_prepared, open_blocks
from evo.data.reading import PLAIN, Reading
from evo.data.token_blocks import Tokens, load_stream, load_text, sequence_length_of
from evo.data.token_shards import Blocks, spaced
from evo.errors import UserError
from evo.model import checkpoint
from evo.model.checkpoint import Checkpoint
from evo.model.nll import summed_nll
from training.evaluation.sliding import summed_tail_nll, windows
from training.evaluation.task_settings import TaskSettings

BLOCKS_PER_UPDATE = 64


def evaluate(
    model: Path,
    text: str,
    *,
    sequence_length: int | None = None,
    max_tokens: int | None = None,
    stride: int | None = None,
    reading: Reading = PLAIN,
    micro_batch: int = 8,
    dtype: str = "float32",
    device: str | None = None,
) -> dict[str, float]:
    """Compute the mean negative log-likelihood per target token; progress is shown on stderr.

    Args:
        model: the checkpoint directory.
        text: a source of text, see `evo.data.token_blocks`.
        sequence_length: the tokens of a block; by default the model's block size, 2048 at most.
        max_tokens: the number of tokens of the text that are used; by default all.
        stride: the number of targets that a block scores, where blocks overlap, see
            `training.evaluation.sliding`; by default they lie side by side, and score all that
            they have.
        reading: how the text's documents are read.
        micro_batch: the number of blocks that run through the model at once.
        dtype: the dtype of the weights: float32 or bfloat16.
        device: torch's name of the device; by default a GPU where there is one.

    Returns:
        `nll` is in nats per token, `perplexity` is its exponential, and `tokens` is the number of
        targets: a block of T tokens has T-1.

    Raises:
        UserError: the input is bad.
    """
    _check_micro_batch(micro_batch)
    stored = checkpoint.load(model)
    length = sequence_length_of(sequence_length, stored.config.block_size)
    blocks, rows, targets = _blocks(stored, text, length, max_tokens, stride, reading)
    network = stored.model(getattr(torch, dtype)).to(device or _device())
    console = Console(stderr=True)
    sums = [
        summed_tail_nll(network, blocks[rows[part]], targets[part], micro_batch=micro_batch)
        if stride
        else summed_nll(network, blocks[rows[part]], micro_batch=micro_batch)
        for part in track(
            [
                slice(start, start + BLOCKS_PER_UPDATE)
                for start in range(0, len(rows), BLOCKS_PER_UPDATE)
            ],
            description=f"{model}",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
    ]
    tokens = int(targets.sum())
    nll = math.fsum(value for part in sums for value in part) / tokens
    return {"nll": nll, "perplexity": math.exp(nll) if nll < 700 else math.inf, "tokens": tokens}


def evaluate_tasks(
    model: Path,
    settings: TaskSettings,
    *,
    micro_batch: int = 8,
    dtype: str = "float32",
    device: str | None = None,
) -> dict[str, Any]:
    """Run tasks of lm-evaluation-harness on a checkpoint; progress is shown on stderr.

    The micro-batch is in sequences; the other arguments are as for `evaluate`.

    Returns:
        The harness's results, see `training.evaluation.harness.run_tasks`.

    Raises:
        UserError: the input is bad, or the harness is not installed.
    """
    _check_micro_batch(micro_batch)
    if find_spec("lm_eval") is None:
        raise UserError("--tasks needs lm-evaluation-harness: pip install 'evo-subnets[tasks]'")
    from training.evaluation.harness import run_tasks

    return run_tasks(
        checkpoint.load(model),
        settings,
        dtype=getattr(torch, dtype),
        batch_size=micro_batch,
        device=device or _device(),
    )


def _check_micro_batch(micro_batch: int) -> None:
    if micro_batch < 1:
        raise UserError(f"--micro-batch {micro_batch}: it must be at least 1")


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _blocks(
    stored: Checkpoint,
    text: str,
    length: int,
    max_tokens: int | None,
    stride: int | None,
    reading: Reading,
) -> tuple[Tokens | Blocks, NDArray[np.int64], NDArray[np.int64]]:
    """Load the text as blocks.

    Returns:
        Token ids, shape [N, T]; the indices of the blocks that are scored, shape [M]; and the
        number of last targets that each of those scores, shape [M].
    """
    vocabulary: Any = {"tokenizer": stored.tokenizer, "vocabulary": stored.vocabulary}
    if stride is None:
        how: Any = {**vocabulary, "sequence_length": length, "max_tokens": max_tokens}
        if is_prepared(text):  # may be larger than the memory
            blocks: Tokens | Blocks = open_blocks(text, **how, reading=reading)
            rows = spaced(len(blocks), blocks.shape[1], max_tokens)
        else:
            blocks = load_text(text, **how, reading=reading).blocks
            rows = np.arange(len(blocks))
        return blocks, rows, np.full(len(rows), blocks.shape[1] - 1)
    stream = load_stream(text, **vocabulary, max_tokens=max_tokens, reading=reading)
    starts, targets = windows(len(stream), length, stride)
    if max_tokens is not None:
        size = min(length, len(stream))
        if max_tokens < size:
            raise UserError(f"--max-tokens {max_tokens} is less than one window of {size} tokens")
        count = min(len(starts), 1 + (max_tokens - size) // stride)
        chosen = np.arange(count) * len(starts) // count
        starts, targets = starts[chosen], targets[chosen]
    return sliding_window_view(stream, min(length, len(stream))), starts, targets
