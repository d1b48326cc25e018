"""Measure the latency of some shapes of a teacher on the cluster, where a worker would run."""

from __future__ import annotations

import statistics
from pathlib import Path

import ray
import torch

from evo.genome.cost import Architecture
from evo.genome.latency_model import Latencies, calibration_shapes, widths_of_shape
from evo.model.checkpoint import load
from workers.pool.teacher_store import raise_user_error
from workers.scoring.decode_latency import decode_latency, random_model
from workers.scoring.scorer import torch_dtype
from workers.settings import ScoringSettings

ROUNDS = 3
"""Each shape is measured so often, all in turn: its median is not of one bad moment."""


def calibrate(
    teacher: Path, architecture: Architecture, settings: ScoringSettings, gpus: float
) -> Latencies:
    """The latencies from which others are predicted: one worker's time, and no other's beside it.

    Args:
        teacher: a checkpoint directory that the cluster's nodes see.
        architecture: of the teacher.
        settings: device, dtype, threads and the length at which to measure.
        gpus: of the worker.
    """
    # It asks for no CPU: all may be a named pool's, which lives longer than this search.
    task = ray.remote(num_cpus=0, num_gpus=gpus)(_measure)
    shapes = calibration_shapes(architecture)
    try:
        measured = ray.get(task.remote(teacher, shapes, settings))
    except ray.exceptions.RayTaskError as error:
        raise_user_error(error)
        raise
    assert settings.latency_length is not None
    return Latencies(settings.latency_length, settings.device, shapes, tuple(measured))


def _measure(
    teacher: Path, shapes: tuple[tuple[int, int, int, int], ...], settings: ScoringSettings
) -> list[int]:
    torch.set_num_threads(settings.threads)
    checkpoint, length = load(teacher), settings.latency_length
    assert length is not None
    rounds = [
        [
            decode_latency(
                random_model(
                    checkpoint.config,
                    widths_of_shape(shape),
                    tied=checkpoint.architecture.tied,
                    dtype=torch_dtype(settings),
                    device=settings.device,
                    length=length,
                ),
                length,
            )
            for shape in shapes
        ]
        for _ in range(ROUNDS)
    ]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]
