"""Niches: how many candidates of each depth a search scores in full, and how good the best is.

    python -m benchmarks.ends_best.niches [--seeds 0 1] [--out DIR]

Whole searches of the embedded teacher without Ray, one thread, with the product's rungs; with
niches and without, else alike. What has ended is not run again. Also how often a mutation changes
the number of layers, in all four spaces. Writes niches.md beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import measured_on, sentence
from benchmarks.search.in_process import LENGTH, TEXT, Bench
from evo.algorithms.evolution import Evolution
from evo.algorithms.map_elites import MapElites
from evo.algorithms.settings import Budget
from evo.commands.search.config import SearchConfig
from evo.embedded import teacher_path
from evo.genome import SPACES
from evo.genome.bins import parse_bin
from evo.genome.cost import parameters
from evo.genome.space import Space
from evo.search.generation import Screening
from evo.search.history.history import History
from evo.search.history.row import Row
from evo.search.screening.sequence_weights import SequenceWeights
from evo.search.screening.stages import Stages
from evo.search.search import Search
from evo.storage.files import atomic_file, cache_directory
from workers.scoring.scorer import Scorer
from workers.settings import ScoringSettings

BIN, SEQUENCES = "25%", 16
SEARCHED = ("coarse-uniform", "fine-layerwise")
BUDGET = Budget(population=20, generations=10)
PARENTS, CHILDREN = 200, 5
"""Random candidates, and mutations of each, by which operators are counted."""

DEFAULTS = SearchConfig(teacher=teacher_path(), text=TEXT, bins=[BIN], out=Path("unused"))


@dataclass(frozen=True)
class Arm:
    """How a search keeps its elites.

    Attributes:
        name: as the table has it.
        kind: of strategy.
        elites: as `--elites`.
    """

    name: str
    kind: type[Evolution]
    elites: int = DEFAULTS.elites


ARMS = (
    Arm("none", Evolution),
    Arm("layers", MapElites),
    Arm("layers, 2 a niche", MapElites, elites=16),
)


class Laboratory:
    """The teacher, its text and order, and where results are kept."""

    def __init__(self, out: Path) -> None:
        torch.set_num_threads(1)
        self.out, self.bench = out, Bench(teacher_path(), SEQUENCES, out)
        self.order = self.bench.order("activation")
        self.scorer = Scorer(
            self.bench.checkpoint, self.bench.text[:SEQUENCES].copy(), ScoringSettings()
        )

    def space(self, name: str) -> Space:
        """One of the four, in the benchmark's bin."""
        architecture = self.bench.checkpoint.architecture
        size = parameters(architecture, architecture.full_widths)
        return Space(name, architecture, self.order, parse_bin(BIN, size, lambda _: None))

    def search(self, space: str, arm: Arm, seed: int) -> list[Row]:
        """The history of a search that has ended, run now or before."""
        rungs, rows_per_shard = DEFAULTS.rung_settings, DEFAULTS.shard_tokens // LENGTH
        stages = Stages.of(rungs, SEQUENCES, rows_per_shard)
        rates = replace(DEFAULTS.rates, elites=arm.elites)
        strategy = arm.kind(self.space(space), BUDGET, seed, rates)
        history = History(self.out / f"{space}-{arm.name.replace(', ', '-')}-{seed}")
        screening = Screening(stages, rungs, SequenceWeights.equal(SEQUENCES))
        one = Search(space, strategy, history, screening)
        while not one.ended:
            wanted = [*one.begin_generation(), *one.advance()]
            while wanted:
                for proposal, shard in wanted:
                    name, rows = proposal.subnet.id, one.stages.shards[shard]
                    score = self.scorer.score(proposal.subnet.pack(), name, rows)
                    assert score.failure is None, score.failure
                    one.take({(name, shard): score})
                wanted = one.advance()
            if one.complete:
                one.end_generation()
        return history.rows()

    def moves(self, space: Space) -> tuple[float, float]:
        """Shares of mutations that change the number of layers, and that change it by one."""
        rng, changes = np.random.default_rng(0), []
        for _ in range(PARENTS):
            parent = space.sample(rng)
            children = (space.mutate(parent, rng) for _ in range(CHILDREN))
            changes += [child.widths.layers - parent.widths.layers for child in children]
        moved = np.abs(changes)
        return float((moved > 0).mean()), float((moved == 1).mean())


def by_depth(histories: Sequence[list[Row]], layers: int) -> str:
    """Two cells: how many of a depth each search scored in full, and the NLL of the best."""
    counts, bests = [], []
    for rows in histories:
        full = [row for row in rows if row.status == "full" and row.layers == layers]
        counts.append(str(len(full)))
        best = min(full, key=lambda row: (row.fitness, row.candidate), default=None)
        bests.append(f"{best.nll:.3f}" if best else "none")
    return f"{', '.join(counts)} | {', '.join(bests)}"


def table(histories: dict[str, list[list[Row]]], layers: int) -> str:
    """The table of a space: a row for each depth, then what was spent."""
    heads = "".join(f" {name}: scored in full | best NLL |" for name in histories)
    lines = [f"| layers |{heads}", "| --- |" + " --- |" * (2 * len(histories))]
    for depth in range(1, layers + 1):
        cells = [by_depth(each, depth) for each in histories.values()]
        lines.append(f"| {depth} | {' | '.join(cells)} |")
    spent = []
    for each in histories.values():
        counts = [str(sum(row.status == "full" for row in rows)) for rows in each]
        best = [f"{min(row.nll for row in rows if row.status == 'full'):.3f}" for rows in each]
        tokens = [f"{sum(row.tokens for row in rows):,}" for rows in each]
        spent.append((f"{', '.join(counts)} | {', '.join(best)}", f"{' and '.join(tokens)} | "))
    lines.append(f"| all | {' | '.join(cells for cells, _ in spent)} |")
    lines.append(f"| tokens scored | {' | '.join(cells for _, cells in spent)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is not there yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--out", type=Path, default=cache_directory() / "benchmarks" / "niches")
    options = parser.parse_args()
    here = Laboratory(options.out)
    layers = here.bench.checkpoint.architecture.dimensions.layers
    parts = [
        "# Niches\n\n"
        f"Searches of the embedded teacher ({layers} layers), bin {BIN}, population "
        f"{BUDGET.population} x {BUDGET.generations} generations after the first, scored in full "
        f"on {SEQUENCES} sequences of {LENGTH} tokens of {TEXT}, the product's rungs, elites and "
        f"rates; seeds {' and '.join(map(str, options.seeds))}, whose figures stand beside each "
        f"other.\n\n{sentence(measured_on())}"
    ]
    for space in SEARCHED:
        histories = {
            arm.name: [here.search(space, arm, seed) for seed in options.seeds] for arm in ARMS
        }
        parts.append(f"## {space}\n\n{table(histories, layers)}")
    lines = ["| space | changes the number of layers | by one |", "| --- | --- | --- |"]
    for space in SPACES:
        moved, by_one = here.moves(here.space(space))
        lines.append(f"| {space} | {moved:.0%} | {by_one:.0%} |")
    parts.append(
        "## How often a mutation moves between niches\n\n"
        f"Of {PARENTS * CHILDREN:,} mutations of {PARENTS} random candidates of the bin.\n\n"
        + "\n".join(lines)
    )
    path = Path(__file__).with_suffix(".md")
    with atomic_file(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
