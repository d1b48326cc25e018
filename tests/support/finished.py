"""Finished runs as their commands leave them, made here and without Ray."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evo.commands.search.claim import claim
from evo.commands.search.config import SearchConfig
from evo.commands.search.inputs import read_inputs
from evo.commands.search.measurements import order_of
from evo.commands.search.searches import searches_of
from evo.commands.search.summary import conclude
from evo.genome.ranking import Order
from evo.genome.subnet import Subnet
from evo.model.importance import importance_by_activation
from evo.model.layer_sensitivity import layer_sensitivity
from evo.search.search import Search
from evo.search.shard_score import ShardScore
from evo.search.spent import Spent
from tests.support import tiny_checkpoints
from tests.support.alone import launch_here
from tests.support.histories import score_generation
from training.config import PretrainConfig
from training.pretrain import pretrain
from workers.scoring.scorer import Scorer

LENGTH = 40


def search_config(root: Path, teacher: Path, **changes: Any) -> SearchConfig:
    """The settings of the run in a directory."""
    given: dict[str, Any] = {
        "teacher": teacher,
        "text": str(root / "tokens.npy"),
        "bins": ["40%"],
        "spaces": ["coarse-uniform", "fine-layerwise"],
        "out": root / "run",
        "population": 5,
        "generations": 2,
        "seed": 3,
        "order": "activation",
        "sequence_length": LENGTH,
    }
    return SearchConfig(**given | changes)


def searched(
    root: Path, teacher: Path, *, stop_after: int | None = None, **changes: Any
) -> SearchConfig:
    """Search a teacher, in two spaces by default; the run is in `run` of the directory.

    Args:
        root: directory of the text and the run.
        teacher: a teacher of 112 tokens.
        stop_after: generations after which the searches are left unfinished.
        changes: other settings.
    """
    np.save(root / "tokens.npy", np.random.default_rng(0).integers(0, 112, 16 * LENGTH))
    config = search_config(root, teacher, **changes)
    run = read_inputs(config)
    claim(run)
    cut = run.teacher
    scorer = Scorer(cut, run.blocks, config.scoring)
    importance = importance_by_activation(cut.model(), run.order_text.blocks)
    order = Order.by_importance(**vars(importance))
    sensitivity = layer_sensitivity(cut.model(), order, run.order_text.blocks)
    replace(order, sensitivity=sensitivity).save(config.out / "order.npz")
    spent = Spent(config.out)
    searches = searches_of(run, order_of(run), None, spent)

    def score(search: Search, subnet: Subnet, shard: int) -> ShardScore:
        spent.tick(0)
        return scorer.score(subnet.pack(), subnet.id, search.stages.shards[shard])

    for search in searches:
        done = 0
        while not search.ended and done != stop_after:
            score_generation(search, partial(score, search))
            done += 1
        search.history.flush()
    if stop_after is None:
        conclude(run, searches, {})
    return config


def pretrained(root: Path, **changes: Any) -> PretrainConfig:
    """Pretrain a tiny network; the run is in `run` of the directory."""
    tiny_checkpoints.neox(root / "model")
    tiny_checkpoints.text(root / "text.npy")
    tiny_checkpoints.text(root / "validation.npy", blocks=9, seed=1)
    config = pretrain_config(root, **changes)
    pretrain(config, launch=launch_here)
    return config


def pretrain_config(root: Path, **changes: Any) -> PretrainConfig:
    """The settings of the run in a directory."""
    given: dict[str, Any] = {
        "model": root / "model",
        "text": str(root / "text.npy"),
        "tokens": 12 * 68,
        "out": root / "run",
        "validation_text": str(root / "validation.npy"),
        "batch_tokens": 68,
        "validate_every": 4,
        "checkpoint_every": 4,
        "sequence_length": 17,
        "workers": 1,
        "threads": 1,
        "gpus_per_worker": 0,
    }
    return PretrainConfig(**given | changes)
