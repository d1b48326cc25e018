"""Networks cut out of the teachers of tests/support/families.py, as checkpoint directories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.model.extract import extract
from tests.support.cuts import random_subnet
from tests.support.families import random_tokens


def cut(
    teacher: Path, directory: Path, *, uniform: bool, seed: int = 0, head_size: int | None = None
) -> Path:
    """Any index sets, no width but the head size that of the teacher."""
    stored = checkpoint.load(teacher)
    rng = np.random.default_rng(seed)
    subnet = random_subnet(stored.architecture.dimensions, rng, uniform=uniform)
    return saved(teacher, directory, replace(subnet, head_size=head_size))


def sized(
    teacher: Path,
    directory: Path,
    *,
    channels: int,
    groups: int,
    layers: int = 2,
    neurons: int = 50,
    head_size: int | None = None,
) -> Path:
    """The first of everything, all layers alike."""
    full = checkpoint.load(teacher).architecture.dimensions

    def first(most: int, kept: int) -> np.ndarray:
        return np.arange(most) < kept

    subnet = Subnet(
        layers=first(full.layers, layers),
        channels=first(full.channels, channels),
        groups=np.tile(first(full.groups, groups), (full.layers, 1)),
        neurons=np.tile(first(full.neurons, neurons), (full.layers, 1)),
        head_size=head_size,
    )
    return saved(teacher, directory, subnet)


def saved(teacher: Path, directory: Path, subnet: Subnet) -> Path:
    """A subnet of a teacher as a checkpoint."""
    stored = checkpoint.load(teacher)
    model = extract(stored, subnet)
    checkpoint.save(directory, model, tokenizer_from=teacher)
    return directory


def tokens(rows: int = 2, length: int = 70) -> Tensor:
    """Token ids of the families' vocabulary, shape [rows, length]."""
    return torch.from_numpy(random_tokens(rows, length)).long()


def logits_of(directory: Path, ids: Tensor) -> Tensor:
    """What a checkpoint computes by litgpt's own forward."""
    with torch.inference_mode():
        return checkpoint.load(directory).model()(ids)
