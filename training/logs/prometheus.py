"""What Prometheus sees of a pretraining run, where Ray runs."""

from __future__ import annotations

from pathlib import Path

import ray

from evo import metrics as names
from evo.ray_metrics import RayMetrics
from training.logs.log_tail import Row

COLUMNS = {
    names.LOSS: "loss",
    names.VALIDATION: "validation_perplexity",
    names.STEP: "step",
    names.TOKENS: "tokens",
    names.FLOPS: "flops",
    names.TOKENS_PER_SECOND: "tokens_per_second",
    names.UTILISATION: "mfu",
    names.SKIPPED: "skipped",
}
"""The column of the log that each gauge shows the last value of."""


class Prometheus:
    """Metrics at Ray's endpoint.

    Args:
        run: the run directory, after which the run is called.
    """

    def __init__(self, run: Path) -> None:
        self._run = run.name
        self._metrics: RayMetrics | None = None
        self._step = -1

    def restart(self) -> None:
        """Steps that have been counted are not counted again."""

    def rows(self, rows: list[Row]) -> None:
        """Show the last of them."""
        if self._metrics is None:
            if not ray.is_initialized():  # a run without Ray Train
                return
            self._metrics = RayMetrics(names.PRETRAIN, {"run": self._run})
        for row in rows:
            found = {metric: row[column] for metric, column in COLUMNS.items() if column in row}
            if row is rows[-1] or names.VALIDATION in found:
                self._metrics.show(found)
            if row["step"] > self._step:
                self._step = row["step"]
                self._metrics.count(names.DATA_SECONDS, row.get("data_seconds", 0.0))

    def close(self) -> None:
        """End the heartbeat."""
        if self._metrics is not None:
            self._metrics.stop()
