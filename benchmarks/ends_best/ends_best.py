"""Whether a train-off over all depths ends better than the winner by loss before training.

    python -m benchmarks.ends_best.ends_best [--teachers embedded larger] [--seeds 0 1 2]
        [--tokens 400000] [--arms ...] [--out DIR]

Every arm spends the same FLOPs in all: what its search and train-off took, it trains less. `chosen
by training` is `evo search --niches layers`, then `evo select`, whose winner trains on --tokens;
all others train until they have spent as much. The commands are the product's own. Goes on where it
was interrupted, writes ends_best.json and ends_best.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.larger_teacher import larger_teacher
from benchmarks.machine import measured_on, sentence
from evo.cli import main as evo
from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import search
from evo.embedded import teacher_path
from evo.model import checkpoint
from evo.storage.files import atomic_file, cache_directory
from training.config import PretrainConfig
from training.logs import log
from training.loop.flops import training_flops
from training.pretrain import pretrain
from training.selection.config import FINALISTS, SelectConfig, default_out
from training.selection.select import select

HERE = Path(__file__).parent
SPACE, BIN = "coarse-uniform", "25%"
FITNESS_TOKENS, POPULATION, GENERATIONS = 8192, 16, 9
LENGTH = 256
TRAINING = {
    "text": "stdlib:train",
    "validation_text": "stdlib:validation",
    "validation_tokens": 65536,
    "batch_tokens": 2048,
    "sequence_length": LENGTH,
}
LEARNING_RATE, RANDOM_LEARNING_RATE = 4e-3, 8e-3
"""The best of a grid: training/learning_rates.md."""

CHOSEN = "chosen by training"
ARMS = {
    CHOSEN: "niches, then a train-off",
    "chosen before training": "the winner by loss before training, of a search without niches",
    "one-shot": "the teacher's order, cut once at the teacher's proportions",
    "random subnet": "a random candidate of the bin",
    "random weights": "random weights in the shape that the train-off chose",
    "random weights, best shape": "random weights in the shape that a train-off of them chose",
    "random weights, proportional": "random weights in the teacher's proportions",
}


@dataclass(frozen=True)
class Cell:
    """What the arms have in common."""

    teacher: str
    seed: int
    tokens: int

    @property
    def checkpoint(self) -> Path:
        """The teacher's directory."""
        return teacher_path() if self.teacher == "embedded" else larger_teacher()


def found(cell: Cell, home: Path, name: str, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """A search: its directory, and what `summary.json` says of it."""
    out = home / name
    given = {"population": POPULATION, "generations": GENERATIONS} | changes
    config = SearchConfig(
        teacher=cell.checkpoint,
        text="stdlib:train",
        max_tokens=FITNESS_TOKENS,
        bins=[BIN],
        spaces=[SPACE],
        out=out,
        seed=cell.seed,
        **given,
    )
    summary = search(config)
    return out, summary["searches"][0] | {"order_flops": summary["order_flops"]}


def trained(cell: Cell, model: Path, out: Path, flops: float, *, init: str) -> dict[str, Any]:
    """A run of a checkpoint that spends so many FLOPs."""
    rate = LEARNING_RATE if init == "weights" else RANDOM_LEARNING_RATE

    def run(tokens: int, directory: Path) -> PretrainConfig:
        return PretrainConfig(
            model=model,
            tokens=tokens,
            out=directory,
            init=init,  # type: ignore[arg-type]
            learning_rate=rate,
            seed=cell.seed,
            **TRAINING,  # type: ignore[arg-type]
        )

    tokens = round(flops / flops_per_token(model))
    pretrain(run(tokens, out))
    return ended(out)


def flops_per_token(model: Path) -> int:
    """FLOPs of a training step, as the product counts them."""
    return training_flops(checkpoint.load(model), None, LENGTH)


def depth(model: Path) -> int:
    """The layers of a network."""
    return checkpoint.load(model).widths.layers


def ended(run: Path) -> dict[str, Any]:
    """The last validation of a run."""
    rows = [row for row in log.rows(run) if "validation_perplexity" in row]
    return {name: rows[-1][name] for name in ("tokens", "flops", "validation_perplexity")}


def measure(cell: Cell, home: Path, arms: list[str]) -> dict[str, Any]:
    """All arms of a cell; the first says how many FLOPs each has."""
    run, of_search = found(cell, home, "niches", niches="layers")
    selection = train_off(cell, run, init="weights")
    assert evo(shlex.split(selection["continue"])[1:]) in (0, None)
    of_search_flops = of_search["flops"] + of_search["order_flops"]
    besides = of_search_flops + selection["flops"] - selection["winner_flops"]
    chosen = ended(Path(selection["winner"]["run"]))
    total = chosen["flops"] + besides
    results = {
        CHOSEN: chosen
        | {
            "layers": selection["winner"]["layers"],
            "search": of_search_flops,
            "train_off": selection["flops"] - selection["winner_flops"],
            "tokens_of_decision": selection["rounds"][-1]["tokens"],
        }
    }
    whole = {"population": 1, "generations": 0}
    for arm, name, changes, init in (
        ("chosen before training", "none", {}, "weights"),
        ("one-shot", "one-shot", {"algorithm": "one-shot"} | whole, "weights"),
        ("random subnet", "random", {"algorithm": "random"} | whole, "weights"),
        ("random weights, proportional", "one-shot", {"algorithm": "one-shot"} | whole, "random"),
    ):
        if arm in arms:
            _, won = found(cell, home, name, **changes)
            spent = 0.0 if init == "random" else won["order_flops"]
            if arm == "chosen before training":
                spent += won["flops"]
            out = home / "runs" / arm.replace(", ", "-").replace(" ", "-")
            result = trained(cell, Path(won["winner"]), out, total - spent, init=init)
            results[arm] = result | {"layers": depth(Path(won["winner"])), "search": spent}
    for arm in ("random weights", "random weights, best shape"):
        if arm in arms:
            spent, shape = 0.0, selection
            if arm != "random weights":
                shape = train_off(cell, run, init="random")
                spent = shape["flops"]
            out = home / "runs" / arm.replace(", ", "-").replace(" ", "-")
            model = Path(shape["winner"]["model"])
            result = trained(cell, model, out, total - spent, init="random")
            results[arm] = result | {"layers": shape["winner"]["layers"], "search": spent}
    return results


def train_off(cell: Cell, run: Path, *, init: str) -> dict[str, Any]:
    """The summary of a train-off of a search's finalists, of their weights or of their shapes."""
    return select(
        SelectConfig(
            run=run,
            out=default_out(run, BIN) if init == "weights" else run / "random",
            tokens=cell.tokens,
            init=init,  # type: ignore[arg-type]
            learning_rate=LEARNING_RATE if init == "weights" else RANDOM_LEARNING_RATE,
            seed=cell.seed,
            **TRAINING,  # type: ignore[arg-type]
        )
    ).summary


def markdown(cells: dict[str, dict[str, Any]], machine: dict[str, Any], tokens: int) -> str:
    """The table: each arm of each teacher, all its seeds and their geometric mean."""
    lines = [
        "# The network that ends best",
        "",
        f"`{SPACE}`, bin {BIN}; perplexity on stdlib:validation after {tokens:,} tokens of "
        f"training of the network that a train-off of {FINALISTS} finalists chose, and of the "
        "others after as many FLOPs in all: the search's and the train-off's are counted.",
        "",
        sentence(machine),
    ]
    for teacher in dict.fromkeys(name.split(",")[0] for name in cells):
        own = {name: arms for name, arms in cells.items() if name.split(",")[0] == teacher}
        seeds = [name.rpartition(" ")[2] for name in own]
        lines += [
            "",
            f"## {teacher} teacher",
            "",
            "| arm | layers | FLOPs before training | "
            + " | ".join(f"perplexity, seed {seed}" for seed in seeds)
            + " | mean | against the train-off |",
            "| --- |" + " --- |" * (len(seeds) + 4),
        ]
        by_arm: dict[str, list[dict[str, Any] | None]] = defaultdict(list)
        for arms in own.values():
            for arm in ARMS:
                by_arm[arm].append(arms.get(arm))
        best = [one["validation_perplexity"] for one in by_arm[CHOSEN] if one]
        for arm, ends in by_arm.items():
            there = [one for one in ends if one]
            if not there:
                continue
            paired = [
                one["validation_perplexity"] / reference
                for one, reference in zip(ends, best, strict=True)
                if one
            ]
            mean = statistics.geometric_mean(one["validation_perplexity"] for one in there)
            ratio = statistics.geometric_mean(paired) - 1
            before = statistics.mean(one["search"] + one.get("train_off", 0) for one in there)
            lines.append(
                f"| **{arm}**: {ARMS[arm]} | {', '.join(str(one['layers']) for one in there)} | "
                f"{before:.2e} | "
                + " | ".join(f"{one['validation_perplexity']:.2f}" if one else "" for one in ends)
                + f" | {mean:.2f} | {'' if arm == CHOSEN else f'{ratio:+.1%}'} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all cells, writing after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teachers", nargs="+", default=["embedded", "larger"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    parser.add_argument("--out", type=Path, default=cache_directory() / "benchmarks" / "ends_best")
    given = parser.parse_args()
    path = HERE / "ends_best.json"
    cells = json.loads(path.read_text())["cells"] if path.is_file() else {}
    for seed in given.seeds:
        for teacher in given.teachers:
            cell = Cell(teacher, seed, given.tokens)
            name = f"{teacher}, seed {seed}"
            home = given.out / f"{teacher}-{seed}-{given.tokens}"
            cells[name] = cells.get(name, {}) | measure(cell, home, given.arms)
            result = {"machine": measured_on(), "tokens": given.tokens, "cells": cells}
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(result, indent=1) + "\n")
            (HERE / "ends_best.md").write_text(markdown(cells, measured_on(), given.tokens))
            print(json.dumps(cells[name], indent=1), flush=True)


if __name__ == "__main__":
    main()
