"""`evo quickstart`: the whole way on a laptop, from the embedded teacher to three trained models.

Search two bins, extract the winners, pretrain the smaller one: from random weights, from the
winner's, and from the winner's with distillation, for the same number of tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from evo.commands.search.config import SearchConfig
from evo.console import result_console
from evo.embedded import teacher_path
from evo.errors import UserError
from evo.storage.files import atomic_file

BINS = ("25%", "50%")
SPACE = "coarse-uniform"
FITNESS_TEXT, TRAINING_TEXT, VALIDATION_TEXT = "stdlib:train", "stdlib:train", "stdlib:validation"
FITNESS_TOKENS = 8192
POPULATION, GENERATIONS = 16, 9
TOKENS = 400_000
VALIDATION_TOKENS = 16384
BATCH_TOKENS = 4096

LEARNING_RATES = {"random": 8e-3, "winner": 4e-3, "distilled": 4e-3}
"""The best of a grid for each arm: benchmarks/training/learning_rates.md."""

LABELS = {
    "random": "random weights",
    "winner": "winner's weights",
    "distilled": "winner's weights, distilled",
}


@dataclass(frozen=True)
class QuickstartConfig:
    """Search the built-in teacher on this machine, pretrain the winner, and compare.

    Takes about 5 minutes on 2 cores. Interrupted, the same command goes on.

    Attributes:
        out: directory for all results.
        seed: of all randomness.
    """

    out: Path = Path("quickstart")
    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"a seed of {self.seed} cannot be: give 0 or more")


def quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Run it all, print the table, draw the pictures.

    Returns:
        What the table says, as written to `summary.json`.
    """
    # Ray and torch are imported after the flags have been read, so that --help need not wait.
    from evo.commands.search.driver import search

    console = result_console()
    console.print(f"[bold]1. Search[/] the embedded teacher for {SPACE} subnets of {_and(BINS)} of "
                  "its parameters")  # fmt: skip
    found = search(search_config(config))
    small = min(found["searches"], key=lambda one: one["params"])
    for one in found["searches"]:
        console.print(
            f"   {one['bin']}: {one['evaluations']} candidates, best perplexity "
            f"{one['perplexity']:.2f} with {one['params']:,} parameters: {one['winner']}"
        )
    for number, arm in enumerate(LABELS, 2):
        console.print(f"[bold]{number}. Pretrain[/] the {small['bin']} shape from {LABELS[arm]}")
        pretrain_arm(arm, Path(small["winner"]), config)
    summary = _summary(found, small, config.out)
    with atomic_file(config.out / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    _draw(config.out, found)
    console.print(_table(summary))
    console.print(_closing(config.out), soft_wrap=True)
    return summary


def search_config(config: QuickstartConfig) -> SearchConfig:
    """The search of the quickstart."""
    return SearchConfig(
        teacher=teacher_path(),
        text=FITNESS_TEXT,
        max_tokens=FITNESS_TOKENS,
        bins=list(BINS),
        spaces=[SPACE],
        out=config.out / "search",
        population=POPULATION,
        generations=GENERATIONS,
        seed=config.seed,
    )


def pretrain_arm(
    arm: str, winner: Path, config: QuickstartConfig, learning_rate: float | None = None
) -> dict[str, Any]:
    """One of the three pretraining runs; they differ in nothing but the arm.

    Args:
        arm: a key of `LABELS`.
        winner: checkpoint directory of the winner.
        config: of the quickstart; the run is its `out / arm`.
        learning_rate: by default the arm's own.
    """
    from training.config import PretrainConfig
    from training.pretrain import pretrain

    return pretrain(
        PretrainConfig(
            model=winner,
            text=TRAINING_TEXT,
            tokens=TOKENS,
            out=config.out / arm,
            init="random" if arm == "random" else "weights",
            teacher=teacher_path() if arm == "distilled" else None,
            validation_text=VALIDATION_TEXT,
            validation_tokens=VALIDATION_TOKENS,
            batch_tokens=BATCH_TOKENS,
            learning_rate=learning_rate or LEARNING_RATES[arm],
            seed=config.seed,
        )
    )


def _summary(found: dict[str, Any], small: dict[str, Any], out: Path) -> dict[str, Any]:
    from training.comparison.curves import against, perplexity_at, read_curve

    curves = {arm: read_curve(out / arm, LABELS[arm]) for arm in LABELS}
    random = curves["random"]
    search_flops = small["flops"] + found["order_flops"]
    arms = {}
    for arm, curve in curves.items():
        alone, whole = (against(random, curve, other_flops=f) for f in (0.0, search_flops))
        arms[arm] = {
            "fitness": None if arm == "random" else small["nll"],
            "flops": curve.flops[-1],
            "perplexity_at_start": curve.perplexity[0],
            "perplexity": curve.perplexity[-1],
            "perplexity_at_equal_flops": perplexity_at(curve, random.flops[-1]),
            "flops_to_match": alone.ratio_text if arm != "random" else "1.00x",
            "flops_to_match_with_search": whole.ratio_text if arm != "random" else "",
        }
    return {
        "bin": small["bin"],
        "parameters": small["params"],
        "search_flops": search_flops,
        "tokens": TOKENS,
        "winner_ahead_at_every_validation": all(
            ours < theirs
            for ours, theirs in zip(curves["winner"].perplexity, random.perplexity, strict=True)
        ),
        "arms": arms,
        "searches": found["searches"],
    }


def _table(summary: dict[str, Any]) -> Table:
    table = Table(
        title=f"{summary['parameters']:,} parameters ({summary['bin']} of the teacher), trained on "
        f"{summary['tokens']:,} tokens; the search took {summary['search_flops']:.2e} FLOPs"
    )
    table.add_column("start")
    for column in (
        "fitness",
        "perplexity\nbefore",
        "perplexity\nafter",
        "at random's\nFLOPs",
        "FLOPs",
        "fewer FLOPs\nto match random",
        "search\nincluded",
    ):
        table.add_column(column, justify="right")
    for arm, one in summary["arms"].items():
        equal = one["perplexity_at_equal_flops"]
        table.add_row(
            LABELS[arm],
            f"{one['fitness']:.3f}" if one["fitness"] else "",
            f"{one['perplexity_at_start']:.1f}",
            f"{one['perplexity']:.2f}",
            f"{equal:.2f}" if equal else "",
            f"{one['flops']:.2e}",
            one["flops_to_match"],
            one["flops_to_match_with_search"],
        )
    table.caption = (
        "Fitness: nats per token on the fitness text, before training. Perplexity: on the "
        "validation text. ≥: ahead at the first validation already."
    )
    return table


def _draw(out: Path, found: dict[str, Any]) -> None:
    import pandas as pd

    from dashboards.pictures import search_curves
    from dashboards.training_curves import draw_curves
    from training.comparison.curves import read_curve

    histories = {
        one["name"]: pd.read_parquet(out / "search" / "searches" / one["name"] / "history.parquet")
        for one in found["searches"]
    }
    search_curves(histories, out / "search.png")
    curves = [read_curve(out / arm, label) for arm, label in LABELS.items()]
    draw_curves(curves, out / "training.png", target=curves[0])


def _closing(out: Path) -> str:
    run = out / "search"
    return "\n".join(
        [
            f"Pictures: {out / 'search.png'} and {out / 'training.png'}",
            "Next (`. .venv/bin/activate` puts evo on the path):",
            f"  evo report {run}",
            f"  evo compare {' '.join(str(out / arm) for arm in LABELS)}",
            f"  evo eval {out / 'distilled' / 'model'} --text {VALIDATION_TEXT}",
            "  evo import EleutherAI/pythia-410m --out teachers/pythia-410m",
            "  evo search --teacher teachers/pythia-410m --text hf:Salesforce/wikitext:"
            "wikitext-103-raw-v1:validation --bins pythia-160m --out runs/first",
        ]
    )


def _and(names: tuple[str, ...]) -> str:
    return " and ".join(names)
