"""What the quickstart searches, lets train off, and pretrains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evo.commands.search.config import SearchConfig
from evo.embedded import teacher_path
from evo.errors import UserError
from training.config import PretrainConfig
from training.selection.config import SelectConfig

BINS = ("25%", "50%")
"""The first is the one whose winner is trained."""
SPACE = "coarse-uniform"
FITNESS_TEXT, TRAINING_TEXT, VALIDATION_TEXT = "stdlib:train", "stdlib:train", "stdlib:validation"
FITNESS_TOKENS = 4096
POPULATION, GENERATIONS = 16, 7
TOKENS = 200_000
VALIDATION_TOKENS = 8192
BATCH_TOKENS = 2048
FINALISTS, SHARE = 4, 0.25
"""Rounds of 12 and 24 steps: shorter ones rank by what networks are before training, see
benchmarks/ends_best/looks_ahead.md."""


@dataclass(frozen=True)
class Arm:
    """A start of pretraining.

    Attributes:
        label: in words.
        init: the weights that it starts from.
        learning_rate: the best of a grid, under a cosine: benchmarks/training/learning_rates.md.
        distils: whether it learns from the teacher, too.
    """

    label: str
    init: Literal["weights", "random"]
    learning_rate: float
    distils: bool = False


ARMS = {
    "random-best": Arm("random weights, their best shape", "random", 8e-3),
    "random": Arm("random weights, the winner's shape", "random", 8e-3),
    "winner": Arm("winner's weights", "weights", 4e-3),
    "distilled": Arm("winner's weights, distilled", "weights", 4e-3, distils=True),
}
TRAIN_OFFS = {"winner": "train-off", "random-best": "train-off-random"}
"""The arms whose shapes a train-off chooses, and its directory."""


@dataclass(frozen=True)
class QuickstartConfig:
    """Search the built-in teacher on this machine, pretrain the winner, and compare.

    Takes 4 minutes on 2 cores. Interrupted, the same command goes on.

    Attributes:
        out: directory for all results.
        seed: of all randomness.
    """

    out: Path = Path("quickstart")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"a seed of {self.seed} cannot be: give 0 or more")


def search_config(config: QuickstartConfig) -> SearchConfig:
    """The search."""
    return SearchConfig(
        teacher=teacher_path(),
        text=FITNESS_TEXT,
        max_tokens=FITNESS_TOKENS,
        bins=list(BINS),
        spaces=[SPACE],
        out=config.out / "search",
        population=POPULATION,
        generations=GENERATIONS,
        niches="layers",
        seed=config.seed,
    )


def select_config(config: QuickstartConfig, name: str) -> SelectConfig:
    """The train-off that chooses the shape of an arm, a key of `TRAIN_OFFS`."""
    return SelectConfig(
        run=config.out / "search",
        bin=BINS[0],
        out=config.out / TRAIN_OFFS[name],
        init=ARMS[name].init,
        learning_rate=ARMS[name].learning_rate,
        finalists=FINALISTS,
        share=SHARE,
        **_training(config),
    )


def pretrain_config(
    config: QuickstartConfig, name: str, model: Path, learning_rate: float | None = None
) -> PretrainConfig:
    """The run of an arm that no train-off has begun.

    Args:
        config: of the quickstart.
        name: a key of `ARMS`, which names the run's directory, too.
        model: checkpoint directory of its shape, and of its weights where it starts from some.
        learning_rate: by default the arm's own.
    """
    arm = ARMS[name]
    return PretrainConfig(
        model=model,
        out=config.out / name,
        init=arm.init,
        teacher=teacher_path() if arm.distils else None,
        learning_rate=learning_rate or arm.learning_rate,
        schedule="wsd",
        **_training(config),
    )


def _training(config: QuickstartConfig) -> dict[str, Any]:
    """What all arms have in common."""
    return {
        "text": TRAINING_TEXT,
        "tokens": TOKENS,
        "validation_text": VALIDATION_TEXT,
        "validation_tokens": VALIDATION_TOKENS,
        "batch_tokens": BATCH_TOKENS,
        "decay": 1 - SHARE,
        "threads": 1,
        "seed": config.seed,
    }
