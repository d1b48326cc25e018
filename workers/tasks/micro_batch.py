"""The micro-batch on CUDA: found once, by trying powers of two on the largest candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from evo.genome.cost import Architecture, parameters
from evo.genome.subnet import Subnet, Widths
from workers.pool.stored_teacher import StoredTeacher, fetch_teacher
from workers.scoring.gpu_memory import is_out_of_memory, worker_memory
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings
from workers.tasks.on_worker import on_worker

MEMORY_SHARE = 0.5
"""At most this share of a worker's memory is used; the next candidate's weights come on top."""


def largest(subnets: Iterable[Subnet], architecture: Architecture, tokens: int) -> Subnet:
    """The subnet that needs most memory with this number of tokens at once."""
    return max(
        subnets, key=lambda subnet: (_elements(architecture, subnet.widths, tokens), subnet.id)
    )


def find_micro_batch(
    teacher: StoredTeacher,
    candidate: Subnet,
    blocks: NDArray[np.int32],
    settings: ScoringSettings,
    gpus: float,
) -> int:
    """The largest micro-batch that leaves memory to spare, tried where a worker would run.

    Args:
        teacher: whose subnets are scored.
        candidate: the largest of the run.
        blocks: token ids of the largest shard, shape [N, T]; more at once would change nothing.
        settings: how to score; the micro-batch is not looked at.
        gpus: share of a GPU that a worker reserves.
    """
    cpus = settings.threads
    return on_worker(_find, teacher, candidate, blocks, settings=settings, gpus=gpus, cpus=cpus)


def largest_within(limit: float, most: int, peak: Callable[[int], float]) -> int:
    """The largest power of two, up to `most`, of which the peak is within the limit; at least 1.

    `peak` gives the bytes that a micro-batch takes at its peak, infinite where there are not so
    many; the limit is in bytes.
    """
    fits = 1
    while 2 * fits <= most and peak(2 * fits) <= limit:
        fits *= 2
    return fits


def _find(
    teacher: StoredTeacher,
    candidate: Subnet,
    blocks: NDArray[np.int32],
    settings: ScoringSettings,
) -> int:
    scorer = Scorer(fetch_teacher(teacher), blocks, replace(settings, micro_batch=1))
    return try_on(scorer, candidate, len(blocks), settings.device_share)


def try_on(scorer: Scorer, candidate: Subnet, most: int, share: float) -> int:
    """The micro-batch of a scorer on this process's GPU.

    The candidate is the largest of the run. No more than `most` sequences are tried, as the text
    has no more; `share` is the part of the GPU's memory that is this worker's.
    """
    limit = MEMORY_SHARE * worker_memory(share)  # of what the teacher has left over
    model = scorer.model(candidate.pack(), candidate.id)

    def peak(micro_batch: int) -> float:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() - _bytes(model)
        try:
            scorer.losses(model, (0, micro_batch), micro_batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return float("inf")
        return torch.cuda.max_memory_allocated() - before

    return largest_within(limit, most, peak)


def _bytes(model: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


def _elements(architecture: Architecture, widths: Widths, tokens: int) -> int:
    """Numbers in the weights, and in the widest block's activations."""
    heads = max(widths.groups) * (architecture.queries_per_group + 2) * architecture.head_size
    widest = 2 * widths.channels + heads + architecture.mlp_matrices * max(widths.neurons)
    return parameters(architecture, widths) + tokens * widest
