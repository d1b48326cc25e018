"""The settings of `evo sweep`, as the user gives them."""

from __future__ import annotations

from dataclasses import dataclass, field

from evo.errors import UserError
from training.config import PretrainConfig, check


@dataclass(frozen=True)
class SweepConfig(PretrainConfig):
    """Pretraining runs over settings, side by side on the cluster, ranked by validation perplexity.

    Takes all flags of `evo pretrain`, for what all runs have in common. Interrupted, the same
    command goes on; with more --samples it adds to what there is.

    Attributes:
        grid: settings of which every combination is tried: alpha=0.1,0.2 init=weights,random.
        random: settings for which values are drawn: learning_rate=log:1e-4..1e-2 alpha=0..1, or
            from a few: temperature=1,2,4. The same --seed draws the same.
        samples: how often values are drawn, for each combination of the grid.
        concurrent: runs at the same time, each with its own --workers (by default one) and
            --gpus-per-worker; by default as many as the cluster has room for.
        asha: end a run early whose validation perplexity is not among the best third of those
            that have come to a ninth, or to a third, of the tokens (Li et al. 2020).
    """

    grid: list[str] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    samples: int = 1
    concurrent: int | None = None
    asha: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, ("samples", "concurrent"), lambda value: value >= 1, "at least 1")
        if self.validation_text is None:
            raise UserError("a sweep compares validation perplexities: give --validation-text")
