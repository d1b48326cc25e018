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
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.larger_teacher import larger_teacher
from benchmarks.machine import measured_on, sentence
from evo.commands.search.config import SearchConfig
from evo.commands.search.driver import search
from evo.embedded import teacher_path
from evo.model import checkpoint
from evo.storage.files import atomic_file, cache_directory
from training.config import PretrainConfig
from training.logs import log
from training.loop.flops import training_flops
from training.selection.config import FINALISTS, SelectConfig, default_out
from training.selection.select import Selection, select
from training.side_by_side import pretrain_side_by_side

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
    "validate_every": 100,
}
LEARNING_RATE, RANDOM_LEARNING_RATE = 4e-3, 8e-3
"""The best of a grid: training/learning_rates.md."""

CHOSEN, UNSEARCHED = "chosen by training", "unsearched"
ARMS = {
    CHOSEN: "niches, then a train-off",
    UNSEARCHED: "a train-off among one random generation; as many tokens, so fewer FLOPs in all",
    "chosen before training": "the winner by loss before training, of a search without niches",
    "one-shot": "the teacher's order, cut once at the teacher's proportions",
    "random subnet": "a random candidate of the bin",
    "random weights": "random weights in the shape that the train-off chose",
    "random weights, best shape": "random weights in the shape that a train-off of them chose",
    "random weights, proportional": "random weights in the teacher's proportions",
}


@dataclass(frozen=True)
class Start:
    """What an arm trains.

    Attributes:
        model: the network.
        init: the weights that it starts from.
        spent: FLOPs that it took to find it.
    """

    model: Path
    init: Literal["weights", "random"]
    spent: float


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


def planned(cell: Cell, start: Start, out: Path, flops: float) -> PretrainConfig:
    """A run of a checkpoint that spends so many FLOPs."""
    return PretrainConfig(
        model=start.model,
        tokens=round(flops / flops_per_token(start.model)),
        out=out,
        init=start.init,
        learning_rate=LEARNING_RATE if start.init == "weights" else RANDOM_LEARNING_RATE,
        seed=cell.seed,
        threads=1,
        **TRAINING,  # type: ignore[arg-type]
    )


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
    chosen = train_off(cell, run, init="weights")
    summary = chosen.summary
    starts = {CHOSEN: of_train_off(chosen, of_search)}
    runs = {CHOSEN: chosen.pretraining}
    if UNSEARCHED in arms:
        first, of_first = found(cell, home, "unsearched", niches="layers", generations=0)
        unsearched = train_off(cell, first, init="weights")
        starts[UNSEARCHED] = of_train_off(unsearched, of_first)
        runs[UNSEARCHED] = unsearched.pretraining
    total = summary["planned_flops"] + starts[CHOSEN].spent
    for arm in arms:
        if arm not in runs:
            starts[arm] = start(cell, home, arm, chosen, run)
            out = home / "runs" / arm.replace(", ", "-").replace(" ", "-")
            runs[arm] = planned(cell, starts[arm], out, total - starts[arm].spent)
    pretrain_side_by_side(home.name, list(runs.values()))
    results = {
        arm: ended(Path(runs[arm].out)) | {"layers": depth(each.model), "spent": each.spent}
        for arm, each in starts.items()
    }
    results[CHOSEN] |= {
        "train_off": summary["flops"] - summary["winner_flops"],
        "tokens_of_decision": summary["rounds"][-1]["tokens"],
        "finalists": [
            {name: one[name] for name in ("candidate", "layers", "nll_before", "nll")}
            for one in summary["finalists"]
        ],
    }
    return results


def of_train_off(selection: Selection, of_search: dict[str, Any]) -> Start:
    """The winner of a train-off."""
    summary = selection.summary
    spent = of_search["flops"] + of_search["order_flops"]
    spent += summary["flops"] - summary["winner_flops"]
    return Start(selection.pretraining.model, "weights", spent)


def start(cell: Cell, home: Path, arm: str, chosen: Selection, run: Path) -> Start:
    """The network of an arm, found with as little as the arm needs."""
    whole = {"population": 1, "generations": 0}
    if arm == "chosen before training":
        _, won = found(cell, home, "none")
        return Start(Path(won["winner"]), "weights", won["flops"] + won["order_flops"])
    if arm == "random subnet":
        _, won = found(cell, home, "random", algorithm="random", **whole)
        return Start(Path(won["winner"]), "weights", won["order_flops"])
    if arm == "random weights":
        return Start(chosen.pretraining.model, "random", 0.0)
    if arm == "random weights, best shape":
        shape = train_off(cell, run, init="random")
        spent = shape.summary["flops"] - shape.summary["winner_flops"]
        return Start(shape.pretraining.model, "random", spent)
    _, won = found(cell, home, "one-shot", algorithm="one-shot", **whole)
    if arm == "one-shot":
        return Start(Path(won["winner"]), "weights", won["order_flops"])
    return Start(Path(won["winner"]), "random", 0.0)


def train_off(cell: Cell, run: Path, *, init: Literal["weights", "random"]) -> Selection:
    """A train-off of a search's finalists, of their weights or of their shapes."""
    return select(
        SelectConfig(
            run=run,
            out=default_out(run, BIN) if init == "weights" else run / "random",
            tokens=cell.tokens,
            init=init,
            learning_rate=LEARNING_RATE if init == "weights" else RANDOM_LEARNING_RATE,
            seed=cell.seed,
            **TRAINING,  # type: ignore[arg-type]
        )
    )


def markdown(budgets: dict[str, dict[str, Any]]) -> str:
    """Each arm of each teacher at each budget, all its seeds and their geometric mean."""
    lines = [
        "# The network that ends best",
        "",
        f"`{SPACE}`, bin {BIN}; perplexity on stdlib:validation of the network that a train-off of "
        f"{FINALISTS} finalists chose, after a number of tokens of training, and of the others "
        "after as many FLOPs in all: the search's and the train-off's are counted.",
    ]
    for tokens in sorted(map(int, budgets), reverse=True):
        budget = budgets[str(tokens)]
        lines += ["", sentence(budget["machine"])]
        if "note" in budget:  # written by hand, where runs were not all made alike
            lines += ["", budget["note"]]
        lines += tables(budget["cells"], tokens)
    return "\n".join(lines) + "\n"


def tables(cells: dict[str, dict[str, Any]], tokens: int) -> list[str]:
    """The lines of one budget: a table for each teacher."""
    lines = []
    for teacher in dict.fromkeys(name.split(",")[0] for name in cells):
        own = {name: arms for name, arms in cells.items() if name.split(",")[0] == teacher}
        seeds = [name.rpartition(" ")[2] for name in own]
        lines += [
            "",
            f"## {teacher} teacher, {tokens:,} tokens",
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
            before = statistics.mean(one["spent"] for one in there)
            lines.append(
                f"| **{arm}**: {ARMS[arm]} | {', '.join(str(one['layers']) for one in there)} | "
                f"{before:.2e} | "
                + " | ".join(f"{one['validation_perplexity']:.2f}" if one else "" for one in ends)
                + f" | {mean:.2f} | {'' if arm == CHOSEN else f'{ratio:+.1%}'} |"
            )
    return lines


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
    budgets = json.loads(path.read_text()) if path.is_file() else {}
    cells = budgets.get(str(given.tokens), {"cells": {}})["cells"]
    for seed in given.seeds:
        for teacher in given.teachers:
            cell = Cell(teacher, seed, given.tokens)
            name = f"{teacher}, seed {seed}"
            home = given.out / f"{teacher}-{seed}-{given.tokens}"
            cells[name] = cells.get(name, {}) | measure(cell, home, given.arms)
            before = budgets.get(str(given.tokens), {})
            budgets[str(given.tokens)] = before | {"machine": measured_on(), "cells": cells}
            with atomic_file(path) as temporary:
                temporary.write_text(json.dumps(budgets, indent=1) + "\n")
            (HERE / "ends_best.md").write_text(markdown(budgets))
            print(json.dumps(cells[name], indent=1), flush=True)


if __name__ == "__main__":
    main()
