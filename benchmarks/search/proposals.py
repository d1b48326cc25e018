"""How fast the four spaces propose, what share is in the bin, and how shapes are distributed.

    python -m benchmarks.search.proposals

Pythia-6.9B's and 12B's dimensions and the bins of the paper; genomes only, no weights. `sample`,
`mutate` and `crossover` as they are (every proposal fitted into its bin) against plain draws from
the same distribution, of which rejection sampling keeps the few that happen to be in the bin.
Seconds are of the processor, one thread, after 50 proposals of each kind; the latest 50 are kept,
as a search keeps a generation. The shapes of fitted and of rejection samples are compared by the
Kolmogorov-Smirnov distance, for which two independent sets of rejection samples are the yardstick.
Writes proposals.json, proposals.md and proposals.png beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from benchmarks.machine import measured_on, sentence
from dashboards.axes import COLOURS, GREY, new_figure, save, tidy
from evo.genome import SPACES
from evo.genome.bins import Bin
from evo.genome.cost import Architecture, parameters
from evo.genome.ranking import Order
from evo.genome.space import Space
from evo.genome.subnet import Dimensions, Subnet

PYTHIA_6_9B = Architecture(
    dimensions=Dimensions(layers=32, channels=4096, groups=32, neurons=16384),
    vocabulary=50432,
    head_size=128,
    queries_per_group=1,
    mlp_matrices=2,
    bias=True,
    attention_bias=False,
    head_bias=False,
    tied=False,
    norm_parameters=2,
    norms_per_block=2,
)
PYTHIA_12B = replace(
    PYTHIA_6_9B,
    dimensions=Dimensions(layers=36, channels=5120, groups=40, neurons=20480),
    vocabulary=50688,
)
TEACHERS = {"Pythia-6.9B": PYTHIA_6_9B, "Pythia-12B": PYTHIA_12B}
BINS = (
    Bin("385M-426M", 385_000_000, 426_000_000),
    Bin("961M-1.06B", 961_000_000, 1_060_000_000),
    Bin("2.64B-2.91B", 2_640_000_000, 2_910_000_000),
)
SHAPE = ("layers", "channels", "groups", "neurons")
SETS = ("fitted", "rejection", "rejection again")
COARSE = SPACES[:2]
GENERATION = 50
HERE = Path(__file__).parent

Shapes = NDArray[np.float64]


@dataclass
class Proposals:
    """What one kind of proposal gave.

    Attributes:
        per_second: of the processor.
        latest: as many as a generation has, as a search keeps no more.
        ids: of all.
        inside: how many are in the bin.
    """

    per_second: float
    latest: list[Subnet]
    ids: set[str]
    inside: int


def timed(propose: Callable[[], Subnet], count: int, bin: Bin, teacher: str) -> Proposals:
    """So many proposals, after a few that warm up."""
    latest = deque((propose() for _ in range(GENERATION)), maxlen=GENERATION)
    result = Proposals(0.0, [], set(), 0)
    seconds = 0.0
    for _ in range(count):
        start = time.process_time()
        subnet = propose()
        seconds += time.process_time() - start
        result.ids.add(subnet.id)
        result.inside += parameters(TEACHERS[teacher], subnet.widths) in bin
        latest.append(subnet)
    result.per_second, result.latest = count / seconds, list(latest)
    return result


def measure_speed(
    teacher: str, name: str, order: Order, bin: Bin, count: int, draws: int
) -> dict[str, Any]:
    """Of one space and one bin."""
    architecture, rng = TEACHERS[teacher], np.random.default_rng(0)
    space = Space(name, architecture, order, bin)

    def pick(kind: Proposals) -> Subnet:
        return kind.latest[rng.integers(GENERATION)]

    samples = timed(lambda: space.sample(rng), count, bin, teacher)
    mutants = timed(lambda: space.mutate(pick(samples), rng), count, bin, teacher)
    children = timed(
        lambda: space.crossover(pick(samples), pick(mutants), rng), count, bin, teacher
    )
    kinds = (samples, mutants, children)
    everything = Bin("any", 1, parameters(architecture, architecture.full_widths))
    plain = Space(name, architecture, order, everything, "reject")
    rejected = [plain.sample(rng).widths for _ in range(draws)]
    return {
        "teacher": teacher,
        "space": name,
        "bin": bin.name,
        "proposals": count,
        "samples_per_second": samples.per_second,
        "mutations_per_second": mutants.per_second,
        "crossovers_per_second": children.per_second,
        "in_bin": sum(kind.inside for kind in kinds) / (3 * count),
        "distinct": len(set.union(*(kind.ids for kind in kinds))) / (3 * count),
        "plain_draws": draws,
        "plain_in_bin": np.mean([parameters(architecture, one) in bin for one in rejected]),
    }


def shapes(
    name: str, order: Order, bin: Bin, in_bin: Literal["fit", "reject"], count: int, seed: int
) -> Shapes:
    """Layers, channels, mean groups and mean neurons of samples, shape [count, 4]."""
    space, rng = Space(name, PYTHIA_6_9B, order, bin, in_bin), np.random.default_rng(seed)
    widths = [space.sample(rng).widths for _ in range(count)]
    return np.array([(w.layers, w.channels, np.mean(w.groups), np.mean(w.neurons)) for w in widths])


def distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Kolmogorov-Smirnov: the largest difference of the two cumulative distributions."""
    at = np.concatenate([one, other])
    below = [np.searchsorted(np.sort(values), at, "right") / values.size for values in (one, other)]
    return float(np.abs(below[0] - below[1]).max())


def measure_shapes(
    order: Order, count: int
) -> tuple[list[dict[str, Any]], dict[str, list[Shapes]]]:
    """The distances in every bin, and the samples of the middle one."""
    rows: list[dict[str, Any]] = []
    middle: dict[str, list[Shapes]] = {}
    for name in COARSE:
        for bin in BINS:
            sets = [
                shapes(name, order, bin, in_bin, count, seed)
                for seed, in_bin in enumerate(("fit", "reject", "reject"))
            ]
            if bin is BINS[1]:
                middle[name] = sets
            for column, dimension in enumerate(SHAPE):
                fitted, rejected, again = (one[:, column] for one in sets)
                rows.append(
                    {
                        "space": name,
                        "bin": bin.name,
                        "dimension": dimension,
                        "samples": count,
                        "fitted": distance(fitted, rejected),
                        "yardstick": distance(again, rejected),
                    }
                )
    return rows, middle


def draw(middle: dict[str, list[Shapes]]) -> None:
    """Cumulative distributions, a row per space, a panel per dimension."""
    figure, panels = new_figure(4.0 * len(SHAPE), 3.2 * len(middle)), {}
    for row, (name, sets) in enumerate(middle.items()):
        for column, dimension in enumerate(SHAPE):
            axes = figure.add_subplot(len(middle), len(SHAPE), row * len(SHAPE) + column + 1)
            panels[name, dimension] = axes
            for label, values, colour in zip(SETS, sets, (COLOURS[0], GREY, GREY), strict=True):
                ordered = np.sort(values[:, column])
                style = ":" if label == SETS[2] else "-"
                axes.step(ordered, np.linspace(0, 1, ordered.size), color=colour, label=label,
                          linestyle=style, where="post")  # fmt: skip
            mean = "mean " if dimension in ("groups", "neurons") else ""
            axes.set_title(f"{name}: {mean}{dimension}", fontsize=10)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            tidy(axes)
    panels[COARSE[0], SHAPE[0]].legend(frameon=False, fontsize=9)
    save(figure, HERE / "proposals.png")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything but the picture, which is drawn on the way."""
    order = Order.by_index(PYTHIA_6_9B.dimensions)
    distances, middle = measure_shapes(order, options.samples)
    draw(middle)
    speeds = []
    for teacher, architecture in TEACHERS.items():
        order = Order.by_index(architecture.dimensions)
        for name in SPACES:
            fine = name.startswith("fine")
            count = options.fine_proposals if fine else options.proposals
            draws = options.fine_draws if fine else options.draws
            speeds += [measure_speed(teacher, name, order, bin, count, draws) for bin in BINS]
    return {"speeds": speeds, "distances": distances, "machine": measured_on(("numpy",))}


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    speeds = result["speeds"]
    kinds = ("samples", "mutations", "crossovers")

    def slowest(prefix: str) -> float:
        chosen = [row for row in speeds if row["space"].startswith(prefix)]
        return min(row[f"{kind}_per_second"] for row in chosen for kind in kinds)

    lines = [
        "# Proposing candidates",
        "",
        f"The slowest kind of proposal in the slowest bin: {slowest('coarse'):.0f}/s in the coarse "
        f"spaces, {slowest('fine-uniform'):.0f}/s in fine-uniform, "
        f"{slowest('fine-layerwise'):.0f}/s in fine-layerwise, on one core. "
        f"In the bin: {min(row['in_bin'] for row in speeds):.1%} of all proposals. Plain draws, "
        "from the distribution that samples start from, are what rejection sampling keeps a share "
        "of.",
        "",
        "| teacher | space | bin | samples/s | mutations/s | crossovers/s | in bin | distinct "
        "| plain draws in bin |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in speeds:
        lines.append(
            f"| {row['teacher']} | {row['space']} | {row['bin']} "
            f"| {row['samples_per_second']:.0f} | {row['mutations_per_second']:.0f} "
            f"| {row['crossovers_per_second']:.0f} | {row['in_bin']:.1%} | {row['distinct']:.1%} "
            f"| {row['plain_in_bin']:.1%} of {row['plain_draws']} |"
        )
    lines += [
        "",
        "## Shapes",
        "",
        f"Kolmogorov-Smirnov distance between {result['distances'][0]['samples']} fitted samples "
        "and as many rejection samples (Pythia-6.9B; groups and neurons are means over layers), "
        "and in brackets between two independent sets of rejection samples: what chance does. "
        "Fine spaces draw their shapes as the coarse ones of the same sharing do.",
        "",
        f"| space | bin | {' | '.join(SHAPE)} |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in COARSE:
        for bin in BINS:
            cells = [
                f"{row['fitted']:.3f} ({row['yardstick']:.3f})"
                for row in result["distances"]
                if (row["space"], row["bin"]) == (name, bin.name)
            ]
            lines.append(f"| {name} | {bin.name} | {' | '.join(cells)} |")
    lines += ["", f"![Cumulative distributions in {BINS[1].name}](proposals.png)", ""]
    return "\n".join([*lines, sentence(result["machine"]), ""])


def main() -> None:
    """Measure, print, and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--proposals", type=int, default=300, help="of each kind, coarse spaces")
    parser.add_argument("--fine-proposals", type=int, default=60, help="of each kind, fine spaces")
    parser.add_argument("--draws", type=int, default=1000, help="plain ones, coarse spaces")
    parser.add_argument("--fine-draws", type=int, default=200, help="plain ones, fine spaces")
    parser.add_argument("--samples", type=int, default=1000, help="whose shapes are compared")
    result = measure(parser.parse_args())
    (HERE / "proposals.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "proposals.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
