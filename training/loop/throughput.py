"""What training costs: speed and utilisation, for the log's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from training.loop.matmul_rate import matmul_rate
from training.loop.train_state import TrainState


@dataclass(frozen=True)
class Throughput:
    """The throughput of all workers together; every worker has it.

    Attributes:
        state: the worker's.
        rate: FLOPs per second that all workers' devices reach in matrix products.
    """

    state: TrainState
    rate: float

    def columns(self, seconds: float) -> dict[str, Any]:
        """The columns `tokens_per_second` and `mfu` of a step.

        The model FLOPs utilisation (Chowdhery et al. 2022, appendix B) is relative to what
        `matmul_rate` measures, and counts the teacher's forward pass as work.
        """
        settings = self.state.settings
        speed = settings.tokens_per_step / seconds
        return {
            "tokens_per_second": round(speed, 1),
            "mfu": round(speed * settings.flops_per_token / self.rate, 4),
        }


def measure_throughput(state: TrainState) -> Throughput:
    """Measure the devices; called by every worker when the log is cut back."""
    rate = torch.tensor(
        [matmul_rate(state.process.device, state.settings.precision)], dtype=torch.float64
    )
    return Throughput(state, state.sum_over_workers(rate).item())
