"""Best fitness by order, by space, and by the parts of the fine spaces' operators.

    python -m benchmarks.spaces.orders_and_spaces [criterion | ablations | orders ...] [--out DIR]

`criterion`: two spaces at equal scored tokens in the smaller bin, on two teachers.
`ablations`: fine-layerwise, the parts of its operators on and off in a factorial design.
`orders`: evolution and random search, in the four spaces, two bins, with the three orders.

Every search runs in a process of its own on one thread, without Ray, two at a time, and scores all
candidates in full. Goes on where it was interrupted. Writes orders_and_spaces.json, .md and .png
beside this file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.machine import measured_on, sentence
from benchmarks.search.in_process import HELD_OUT, LENGTH, TEXT, Bench
from benchmarks.spaces.operator_parts import BUILT_IN, PARTS, EvolutionOfParts, SpaceOfParts
from evo.algorithms.base import Strategy
from evo.algorithms.random_search import RandomSearch
from evo.algorithms.settings import Budget, Rates
from evo.embedded import teacher_path
from evo.genome import RANKINGS, SPACES
from evo.genome.bins import parse_bin
from evo.genome.cost import parameters
from evo.storage.files import atomic_file, cache_directory

SEEDS = (0, 1, 2)
BINS = ("25%", "50%")
SMALLER = BINS[0]
TEACHERS = ("embedded", "larger")
ALGORITHMS = ("random", "evolution")
COMPARED = ("coarse-uniform", "fine-layerwise")
MEMORY = cache_directory() / "benchmarks" / "in-process"
PROCESSES = 2
HERE = Path(__file__).parent
COLOURS = dict(zip(SPACES, ("#0072B2", "#E69F00", "#009E73", "#D55E00"), strict=True))


@dataclass(frozen=True)
class Search:
    """One search.

    Attributes:
        experiment: which part of the benchmark it is first needed by.
        sequences: that each candidate is scored on.
    """

    experiment: str
    seed: int
    space: str
    bin: str = SMALLER
    teacher: str = "embedded"
    order: str = "activation"
    algorithm: str = "evolution"
    parts: tuple[str, ...] = tuple(sorted(BUILT_IN))
    population: int = 32
    generations: int = 15
    elites: int = 10
    sequences: int = 16

    @property
    def key(self) -> str:
        """All that its result depends on."""
        parts = "+".join(self.parts) or "none"
        return "/".join(
            map(
                str,
                (
                    self.teacher, self.order, self.bin, self.space, self.algorithm, parts,
                    self.population, self.generations, self.elites, self.sequences, self.seed,
                ),
            )
        )  # fmt: skip


def searches(experiment: str) -> list[Search]:
    """The searches of a part of the benchmark, those of one comparison side by side."""
    if experiment == "criterion":
        return [
            Search(experiment, seed, space, teacher=teacher, generations=9, sequences=8)
            for teacher, seed, space in product(TEACHERS, SEEDS, COMPARED)
        ]
    if experiment == "ablations":
        return [
            Search(experiment, seed, "fine-layerwise", parts=parts, generations=9, sequences=8)
            for seed in SEEDS
            for parts in design(tuple(PARTS))
        ]
    return [
        Search(experiment, seed, space, bin, order=order, algorithm=algorithm, population=16,
               generations=2, elites=5, sequences=12)
        for seed, order, algorithm, bin, space in product(SEEDS, RANKINGS, ALGORITHMS, BINS, SPACES)
    ]  # fmt: skip


def design(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Sixteen sets of eight parts, such that each is in half of them, and with any other, or
    without it, in a quarter.

    The fractional factorial design of resolution IV (Box and Hunter 1961): no part's effect is
    confused with how two others work together. Every search tells of every part, so the effects
    are known three times as well as by taking out one part at a time, for as many searches.
    """
    assert len(parts) == 8
    sets = []
    for a, b, c, d in product((0, 1), repeat=4):
        on = (a, b, c, d, a ^ b ^ c, a ^ b ^ d, a ^ c ^ d, b ^ c ^ d)
        sets.append(tuple(sorted(part for part, one in zip(parts, on, strict=True) if one)))
    return sets


def run(search: Search) -> dict[str, Any]:
    """Its row: the best fitness after every generation, and of the winner."""
    bench = bench_of(search.teacher, search.sequences)
    architecture = bench.checkpoint.architecture
    size = parameters(architecture, architecture.full_widths)
    order = bench.order(search.order)
    bin = parse_bin(search.bin, size, lambda name: None)
    space = SpaceOfParts(search.space, architecture, order, bin, search.parts)
    budget = Budget(search.population, search.generations)
    strategy: Strategy
    if search.algorithm == "random":
        strategy = RandomSearch(space, budget, search.seed)
    else:
        strategy = EvolutionOfParts(space, budget, search.seed, Rates(search.elites))
    curve = bench.best_by_generation(strategy)
    assert strategy.best is not None
    widths = strategy.best.subnet.widths
    return asdict(search) | {
        "nll": curve[-1],
        "held_out": bench.held_out(strategy.best.subnet),
        "curve": [round(value, 5) for value in curve],
        "tokens": bench.tokens * len(strategy.seen),
        "winner": [widths.channels, widths.groups, widths.neurons],
    }


@lru_cache(maxsize=1)
def bench_of(teacher: str, sequences: int) -> Bench:
    """A process mostly stays with one teacher."""
    if teacher == "embedded":
        return Bench(teacher_path(), sequences, MEMORY)
    from benchmarks.larger_teacher import larger_teacher

    return Bench(larger_teacher(), sequences, MEMORY)


def run_all(wanted: Sequence[Search], results: Path) -> None:
    """Run what is not in the results file yet; each search is added when it has ended."""
    rows = read(results)
    left = {one.key: one for one in wanted if one.key not in rows}
    if not left:
        return
    for name in {(one.teacher, one.order, one.sequences) for one in left.values()}:
        bench_of(name[0], name[2]).order(name[1])  # ranked once, not by both processes
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        futures = {pool.submit(run, one): key for key, one in left.items()}
        for number, future in enumerate(as_completed(futures), 1):
            rows[futures[future]] = future.result()
            with atomic_file(results) as temporary:
                temporary.write_text(json.dumps(rows) + "\n")
            nll = rows[futures[future]]["nll"]
            print(f"{number}/{len(left)} {futures[future]}: {nll:.3f}", flush=True)


def read(results: Path) -> dict[str, dict[str, Any]]:
    """Rows by their searches' keys."""
    return json.loads(results.read_text()) if results.is_file() else {}


def rows_of(experiment: str, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a part of the benchmark that are there."""
    return [rows[one.key] for one in searches(experiment) if one.key in rows]


def spread_of(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "–"


# The spaces at equal scored tokens


def criterion_section(rows: list[dict[str, Any]]) -> str:
    """A row for every teacher and seed, a column for every space."""
    first = rows[0]
    frame = pd.DataFrame(rows)
    lines = [
        "## The spaces at equal scored tokens",
        "",
        f"Best fitness (nats per token) in the {SMALLER} bin after {setting(first)}; in brackets "
        f"the winner's NLL on {HELD_OUT} sequences that no candidate was scored on.",
        "",
        "| teacher | seed | " + " | ".join(COMPARED) + " |",
        "| --- | --- |" + " --- |" * len(COMPARED),
    ]
    for (teacher, seed), group in frame.groupby(["teacher", "seed"]):
        found = group.set_index("space")
        cells = [
            f"{found.nll[space]:.3f} ({found.held_out[space]:.3f})" if space in found.index else "–"
            for space in COMPARED
        ]
        lines.append(f"| {teacher} | {seed} | " + " | ".join(cells) + " |")
    lines.append("")
    for teacher, group in frame.groupby("teacher"):
        wide = group.pivot(index="seed", columns="space", values="nll")
        held_out = group.pivot(index="seed", columns="space", values="held_out")
        gain = (wide["coarse-uniform"] - wide["fine-layerwise"]).dropna()
        held_gain = (held_out["coarse-uniform"] - held_out["fine-layerwise"]).dropna()
        lines.append(
            f"- {teacher}: fine-layerwise at least as good as coarse-uniform with "
            f"{int((gain >= 0).sum())} of {len(gain)} seeds, by {gain.mean():+.3f} nats on average "
            f"({held_gain.mean():+.3f} on the unseen sequences)"
        )
    return "\n".join([*lines, "", "![Best fitness against scored tokens](orders_and_spaces.png)"])


def setting(row: dict[str, Any]) -> str:
    """What all searches of a section have in common."""
    evaluations = row["population"] * (row["generations"] + 1)
    tokens = evaluations * row["sequences"] * (LENGTH - 1)
    return (
        f"{evaluations} evaluations (population {row['population']}), all on the same "
        f"{row['sequences']} evenly spread sequences of {LENGTH} tokens of {TEXT}: "
        f"{tokens / 1e6:.2f}M scored tokens"
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Best fitness so far against scored tokens, a panel per teacher, a line per seed."""
    frame = pd.DataFrame(rows)
    teachers = [one for one in TEACHERS if one in set(frame.teacher)]
    figure = Figure(figsize=(5 * len(teachers), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(teachers), squeeze=False)[0]
    for panel, teacher in zip(panels, teachers, strict=True):
        labelled: set[str] = set()
        for row in frame[frame.teacher == teacher].to_dict("records"):
            tokens = np.arange(1, len(row["curve"]) + 1) * row["tokens"] / len(row["curve"]) / 1e6
            label = None if row["space"] in labelled else row["space"]
            labelled.add(row["space"])
            panel.plot(tokens, row["curve"], color=COLOURS[row["space"]], lw=1.4, label=label)
        panel.set(
            title=f"{teacher} teacher, {SMALLER} bin",
            xlabel="scored tokens, millions",
            ylabel="best fitness, nats per token",
        )
        panel.grid(alpha=0.25)
        panel.legend(frameon=False, fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


# The parts of the operators


def effects(rows: list[dict[str, Any]], field: str) -> dict[str, tuple[float, float]]:
    """What having each part does to the NLL, and the standard error: least squares.

    Args:
        rows: of searches with several sets of parts and several seeds; each seed has its own mean.
        field: what to explain.
    """
    seeds = sorted({row["seed"] for row in rows})
    columns = [[float(row["seed"] == seed) for row in rows] for seed in seeds]
    columns += [[float(part in row["parts"]) for row in rows] for part in PARTS]
    matrix = np.array(columns).T
    values = np.array([row[field] for row in rows])
    inverse = np.linalg.inv(matrix.T @ matrix)
    solution = inverse @ matrix.T @ values
    freedom = len(values) - matrix.shape[1]
    variance = float(np.sum((values - matrix @ solution) ** 2)) / freedom
    errors = np.sqrt(variance * np.diag(inverse))
    both = [(float(one), float(error)) for one, error in zip(solution, errors, strict=True)]
    return dict(zip(PARTS, both[len(seeds) :], strict=True))


def ablations_section(rows: list[dict[str, Any]]) -> str:
    """A row for every part."""
    frame = [row | {"third": row["curve"][len(row["curve"]) // 3]} for row in rows]
    fields = ("nll", "third", "held_out")
    sets, seeds = len({tuple(row["parts"]) for row in rows}), len({row["seed"] for row in rows})
    found = {field: effects(frame, field) for field in fields}
    lines = [
        "## The parts of the fine spaces' operators",
        "",
        f"fine-layerwise, {SMALLER} bin, embedded teacher, {setting(rows[0])}. {len(rows)} "
        f"searches with {sets} sets of parts (a fractional factorial design) and {seeds} seeds: "
        "what having a part does to the best fitness (nats per token, less is better), with its "
        "standard error; at the end, after a third of the tokens, and of the winner on "
        f"{HELD_OUT} unseen sequences.",
        "",
        "| part | | at the end | after a third | unseen sequences | in the product |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for part, text in PARTS.items():
        cells = [f"{found[field][part][0]:+.3f} ± {found[field][part][1]:.3f}" for field in fields]
        built_in = "yes" if part in BUILT_IN else "no"
        lines.append(f"| {part} | {text} | " + " | ".join([*cells, built_in]) + " |")
    nll = [row["nll"] for row in rows]
    return "\n".join([*lines, "", f"All of these searches: {spread_of(nll)}."])


# The orders


def orders_section(orders: dict[str, Any]) -> str:
    """Mean best NLL over the seeds and its spread, and pairs."""
    rows = pd.DataFrame(orders["rows"])
    lines = [
        "## The orders",
        "",
        orders["setting"],
        "",
        "| bin | space | " + " | ".join(f"{a}, {o}" for o in RANKINGS for a in ALGORITHMS) + " |",
        "| --- | --- |" + " --- |" * (len(RANKINGS) * len(ALGORITHMS)),
    ]
    for bin, space in product(BINS, SPACES):
        cells = []
        for order, algorithm in product(RANKINGS, ALGORITHMS):
            nll = rows[
                (rows.bin == bin) & (rows.space == space) & (rows.order == order)
                & (rows.algorithm == algorithm)
            ].nll  # fmt: skip
            cells.append(spread_of(nll.to_list()))
        lines.append(f"| {bin} | {space} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *paired(rows)])


def paired(rows: pd.DataFrame) -> list[str]:
    """How often one choice beats another, all else equal, and by how much."""
    lines = []
    keys = ["bin", "space", "order", "algorithm", "seed"]
    pairs = (
        ("algorithm", "evolution", "random"),
        ("order", "activation", "index"),
        ("order", "magnitude", "index"),
        ("order", "activation", "magnitude"),
    )
    for column, one, other in pairs:
        for bin in BINS:
            chosen = rows[rows.bin == bin]
            if column != "algorithm":
                chosen = chosen[chosen.algorithm == "evolution"]
            wide = chosen.pivot(
                index=[k for k in keys if k != column], columns=column, values="nll"
            )
            gain = (wide[other] - wide[one]).dropna().to_numpy()
            lines.append(
                f"- {bin}: {one} better than {other} in {np.sum(gain > 0)} of {len(gain)} pairs, "
                f"by {gain.mean():+.3f} nats on average"
            )
    return lines


def write(results: Path) -> None:
    """The tables and the picture of all that is there; the verdict below them stays."""
    rows = read(results)
    path, markdown = HERE / "orders_and_spaces.json", HERE / "orders_and_spaces.md"
    record = json.loads(path.read_text())
    criterion, ablations = rows_of("criterion", rows), rows_of("ablations", rows)
    orders = rows_of("orders", rows)
    if len(orders) == len(searches("orders")):
        text = (
            f"Best fitness (nats per token, mean and standard deviation over seeds "
            f"{', '.join(map(str, SEEDS))}), embedded teacher, after {setting(orders[0])}."
        )
        record["orders"] = {"setting": text, "rows": orders}
    record |= {"criterion": criterion, "ablations": ablations, "machine": measured_on()}
    path.write_text(json.dumps(record, indent=1) + "\n")
    sections = ["# Orders and spaces"]
    if criterion:
        draw(criterion, HERE / "orders_and_spaces.png")
        sections.append(criterion_section(criterion))
    if ablations:
        sections.append(ablations_section(ablations))
    sections += [orders_section(record["orders"]), sentence(record["machine"])]
    verdict = markdown.read_text().partition("## What it says\n")[2]
    markdown.write_text("\n\n".join(sections) + f"\n\n## What it says\n{verdict}")
    print(markdown.read_text())


def main() -> None:
    """Run, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ("criterion", "ablations", "orders")
    parser.add_argument("experiments", nargs="*", default=list(names), metavar=" | ".join(names))
    parser.add_argument("--out", type=Path, default=Path("orders_and_spaces"))
    arguments = parser.parse_args()
    if unknown := set(arguments.experiments) - set(names):
        parser.error(f"no experiment {', '.join(sorted(unknown))}: there are {', '.join(names)}")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out / "results.json"
    for experiment in arguments.experiments:
        run_all(searches(experiment), results)
    write(results)


if __name__ == "__main__":
    main()
