"""The settings of `evo select`, as the user gives them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evo.errors import UserError
from training.config import TrainingConfig, check

SHARE, FINALISTS = 0.1, 8
"""The defaults of --share and --finalists. Training of those who lose takes log2(finalists) times
the share of the planned run, 0.3 of it. The first round is a share / (finalists / 2) of the run:
with more finalists it would end within the default --warmup of 0.02, where the learning rate has
hardly risen and the order says little."""


@dataclass(frozen=True, kw_only=True)
class SelectConfig(TrainingConfig):
    """Pretrain the finalists of a search side by side, halve them until one is left.

    A train-off chooses among a bin's candidates by how well they train, where the search could only
    choose by what they are before any training. Each round doubles the training of those that are
    left, and the better half of them by validation NLL goes on (successive halving, Jamieson and
    Talwalkar 2016). The winner's training is the beginning of the planned run, which
    `evo pretrain --schedule wsd` goes on with. Interrupted, the same command goes on.

    Attributes:
        run: run directory of `evo search`.
        tokens: tokens of the planned pretraining, of which the train-off is the beginning.
        out: directory of the train-off; by default RUN/select/BIN.
        bin: which of the run's bins, needed where it has several; its spaces compete together.
        finalists: number of candidates that begin: the best of each number of layers, then the
            second bests, and so on.
        share: share of the planned tokens on which the last two are trained when the winner is
            chosen.
        decay: share of the steps in which the learning rate falls; before, the winner is chosen.
        validation_text: source of the text by which the winner is chosen.
        workers: number of finalists that train at the same time, each by itself; by default as many
            as the cluster has room for.
        workers_per_finalist: number of workers that train a finalist together, on Ray Train, one
            finalist after the other: for networks that do not fit one worker.
        threads: threads of each worker on the CPU, also of the run that goes on with the winner.
    """

    run: Path
    out: Path | None = None
    bin: str | None = None
    finalists: int = FINALISTS
    share: float = SHARE
    decay: float = 0.8  # one long fall ends lower: benchmarks/ends_best/decay.md
    workers: int | None = None
    workers_per_finalist: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("workers", "workers_per_finalist", "threads")
        check(self, names, lambda value: value > 0, "more than 0")
        if self.workers is not None and self.workers_per_finalist > 1:
            raise UserError(
                f"--workers {self.workers} finalists at a time, but --workers-per-finalist "
                f"{self.workers_per_finalist} trains one after the other: leave --workers away"
            )
        check(self, ("finalists",), lambda value: value >= 2, "at least 2")
        check(self, ("share",), lambda value: 0 < value < 1, "above 0 and below 1")
        if self.validation_text is None:
            raise UserError("a train-off compares losses on other text: give --validation-text")


def default_out(run: Path, bin: str) -> Path:
    """The directory of a bin's train-off where the user names none."""
    return run / "select" / bin
