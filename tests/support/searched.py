"""Runs of `evo search` with random subnets, of which no text was scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from evo.genome.cost import parameters
from evo.genome.subnet import Subnet
from evo.model import checkpoint
from evo.search.history.history import History
from evo.search.history.row import Row
from evo.storage.run_directory import claim_run
from tests.support.cuts import random_subnet


def searched(run: Path, teacher: Path, candidates: Mapping[str, int]) -> Path:
    """The directory of a finished run.

    Args:
        run: directory to make.
        teacher: the teacher that is searched.
        candidates: how many each search has found, by SPACE@BIN.
    """
    stored = checkpoint.load(teacher)
    settings = {"teacher": str(teacher), "teacher_hash": stored.hash, "seed": 0}
    claim_run(run, settings)
    rng = np.random.default_rng(0)
    for name, count in candidates.items():
        uniform = name.partition("@")[0].endswith("uniform")
        found = [
            random_subnet(stored.architecture.dimensions, rng, uniform=uniform)
            for _ in range(count)
        ]
        fitness = rng.uniform(3.0, 5.0, count)
        rows = [
            row_of(subnet, float(nll), parameters(stored.architecture, subnet.widths))
            for subnet, nll in zip(found, fitness, strict=True)
        ]
        # One that was dropped at a rung is no finalist, however good it looked.
        rows.append(replace(rows[0], candidate="0" * 16, fitness=0.0, status="screened"))
        history = History(run / "searches" / name)
        history.fold(rows, {"generation": 1, "ended": "budget"})
        history.flush()
    return run


def row_of(subnet: Subnet, nll: float, params: int) -> Row:
    """A candidate's row in the history."""
    widths = subnet.widths
    return Row(
        candidate=subnet.id,
        generation=0,
        operator="sample",
        parents=(),
        params=params,
        cost=params,
        layers=widths.layers,
        channels=widths.channels,
        groups=widths.groups,
        neurons=widths.neurons,
        head_size=16,
        fitness=nll,
        nll=nll,
        perplexity=math.exp(nll),
        tokens=100,
        seconds=0.0,
        status="full",
        reason="",
        genome=subnet.pack(),
    )
