"""Measure the latency of some shapes of a teacher on the cluster, where a worker would run."""

from __future__ import annotations

import statistics

from evo.genome.latency_model import Latencies, calibration_shapes, widths_of_shape
from evo.model.litgpt import Config
from evo.model.network import Network
from workers.scoring.decode_latency import decode_latency, random_model
from workers.scoring.scorer import torch_dtype
from workers.settings import ScoringSettings
from workers.tasks.on_worker import on_worker

ROUNDS = 3
"""Each shape is measured so often, all in turn: its median is not of one bad moment."""


def calibrate(teacher: Network, settings: ScoringSettings, gpus: float) -> Latencies:
    """The latencies from which others are predicted: one worker's time, and no other's beside it.

    Shapes have random weights. The worker reserves `gpus` of a GPU.
    """
    assert settings.latency_length is not None
    shapes = calibration_shapes(teacher.architecture)
    network = teacher.config, teacher.tied
    measured = on_worker(_measure, network, shapes, settings=settings, gpus=gpus, cpus=0)
    return Latencies(settings.latency_length, settings.device, shapes, tuple(measured))


def _measure(
    teacher: tuple[Config, bool],
    shapes: tuple[tuple[int, int, int, int], ...],
    settings: ScoringSettings,
) -> list[int]:
    (config, tied), length = teacher, settings.latency_length
    assert length is not None
    rounds = [
        [
            decode_latency(
                random_model(
                    config,
                    widths_of_shape(shape),
                    tied=tied,
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
