"""The cost of training for the log's rows: speed, utilisation, energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed

from training.logs import log
from training.loop.energy import Counter, EnergyMeter, counters
from training.loop.matmul_rate import matmul_rate
from training.loop.train_state import TrainState


@dataclass(frozen=True)
class Throughput:
    """Speed, utilisation and energy of all workers together; all of them call it at the same steps.

    Attributes:
        state: the worker's state.
        rate: FLOPs per second that all workers' devices reach in matrix products.
        meter: adds up the counters that no other worker reads; None where no worker has any.
        joules_before: joules of the run before it was started again.
    """

    state: TrainState
    rate: float
    meter: EnergyMeter | None
    joules_before: float

    def columns(self, seconds: float) -> dict[str, Any]:
        """`tokens_per_second`, `mfu` and, where it is counted, `joules` of the run so far.

        The model FLOPs utilisation (Chowdhery et al. 2022, appendix B) is relative to what
        `matmul_rate` measures, and counts the teacher's forward pass as work.

        Args:
            seconds: duration of the step.
        """
        settings = self.state.settings
        tokens_per_second = settings.tokens_per_step / seconds
        row = {
            "tokens_per_second": round(tokens_per_second, 1),
            "mfu": round(tokens_per_second * settings.flops_per_token / self.rate, 4),
        }
        if self.meter is not None:
            joules = torch.tensor([self.meter.joules()], dtype=torch.float64)
            total = self.state.sum_over_workers(joules).item()
            row["joules"] = round(self.joules_before + total, 3)
        return row


def measure_throughput(state: TrainState) -> Throughput:
    """Measure the devices and start counting; every worker calls this once the log is cut back."""
    rate = matmul_rate(state.process.device, state.settings.precision)
    own = counters(state.process.device)
    if state.process.workers > 1:
        own = _not_read_by_others(own, state)
    rate_and_counters = state.sum_over_workers(torch.tensor([rate, len(own)], dtype=torch.float64))
    total, counted = rate_and_counters.tolist()
    rows = (
        log.rows(state.job.directory) if state.process.rank == 0 else []
    )  # only its row is logged
    before = rows[-1].get("joules", 0.0) if rows else 0.0
    return Throughput(state, total, EnergyMeter(own) if counted else None, before)


def _not_read_by_others(own: list[Counter], state: TrainState) -> list[Counter]:
    """The counters that no worker of a lower rank reads; workers of a node have the same ones."""
    keys: list[list[str]] = [[] for _ in range(state.process.workers)]
    torch.distributed.all_gather_object(keys, [counter.key for counter in own])
    taken = {key for others in keys[: state.process.rank] for key in others}
    return [counter for counter in own if counter.key not in taken]
