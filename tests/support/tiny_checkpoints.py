"""Checkpoints of a few thousand parameters and a text of token ids, for tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from litgpt.config import Config
from litgpt.model import GPT

from evo.model import checkpoint
from evo.model.layerwise_gpt import tie
from training.loop.init_weights import initialise

VOCABULARY = 60


def neox(
    directory: Path,
    *,
    vocabulary: int = VOCABULARY,
    padded: int = 64,
    channels: int = 32,
    seed: int = 0,
) -> Path:
    """A GPT-NeoX checkpoint with random weights and no tokenizer."""
    config = Config(
        name="tiny-neox",
        n_layer=2,
        n_embd=channels,
        n_head=4,
        intermediate_size=2 * channels,
        block_size=32,
        vocab_size=vocabulary,
        padded_vocab_size=padded,
        rotary_percentage=0.25,
    )
    return _write(directory, config, seed, tied=False)


def llama(directory: Path, *, seed: int = 0) -> Path:
    """A Llama checkpoint with grouped queries and tied embeddings."""
    config = Config(
        name="tiny-llama",
        n_layer=2,
        n_embd=32,
        n_head=4,
        n_query_groups=2,
        intermediate_size=48,
        block_size=32,
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    return _write(directory, config, seed, tied=True)


def _write(directory: Path, config: Config, seed: int, *, tied: bool) -> Path:
    model = GPT(config)
    initialise(model, torch.Generator().manual_seed(seed))
    if tied:
        tie(model)
    checkpoint.save(directory, model)
    return directory


def text(path: Path, *, blocks: int = 50, length: int = 17, seed: int = 0) -> str:
    """Token ids in which each is likely to be followed by the next one, as a 2-D `.npy`."""
    rng = np.random.default_rng(seed)
    steps = np.where(
        rng.random((blocks, length)) < 0.8, 1, rng.integers(VOCABULARY, size=(blocks, length))
    )
    np.save(path, (np.cumsum(steps, axis=1) % VOCABULARY).astype(np.int32))
    return str(path)
