"""How fast the four spaces propose, and what share of proposals is in the bin.

    python -m benchmarks.proposals

Pythia-6.9B's dimensions and the bins of the paper; genomes only, no weights. `sample`, `mutate` and
`crossover` as they are (every proposal fitted into its bin) against plain draws from the same
distribution, of which rejection sampling keeps the few that happen to be in the bin. Seconds are
of the processor, one thread. Writes proposals.json and proposals.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import measured_on, sentence
from evo.bins import Bin
from evo.cost import Architecture, parameters
from evo.order import Order
from evo.space import SPACES, Space
from evo.subnet import Dimensions, Subnet

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
BINS = (
    Bin("385M-426M", 385_000_000, 426_000_000),
    Bin("961M-1.06B", 961_000_000, 1_060_000_000),
    Bin("2.64B-2.91B", 2_640_000_000, 2_910_000_000),
)
HERE = Path(__file__).parent


def timed(propose: Callable[[], Subnet], count: int) -> tuple[list[Subnet], float]:
    """So many proposals, and how many come in a second of the processor."""
    start = time.process_time()
    subnets = [propose() for _ in range(count)]
    return subnets, count / (time.process_time() - start)


def share_in(bin: Bin, subnets: list[Subnet]) -> float:
    """What part of the proposals is in the bin, from their masks."""
    costs = [parameters(PYTHIA_6_9B, subnet.widths) for subnet in subnets]
    return sum(cost in bin for cost in costs) / len(costs)


def measure_bin(name: str, order: Order, bin: Bin, count: int) -> dict[str, Any]:
    """Of one space and one bin."""
    space, rng = Space(name, PYTHIA_6_9B, order, bin), np.random.default_rng(0)
    samples, sampled = timed(lambda: space.sample(rng), count)
    parents = iter(samples)
    mutants, mutated = timed(lambda: space.mutate(next(parents), rng), count)
    pairs = zip(samples, mutants[1:] + mutants[:1], strict=True)
    children, crossed = timed(lambda: space.crossover(*next(pairs), rng), count)
    return {
        "space": name,
        "bin": bin.name,
        "samples_per_second": sampled,
        "mutations_per_second": mutated,
        "crossovers_per_second": crossed,
        "in_bin": share_in(bin, samples + mutants + children),
        "distinct": len({one.id for one in samples + mutants + children}) / (3 * count),
    }


def measure(count: int, draws: int) -> dict[str, Any]:
    """All spaces and bins."""
    order = Order.by_index(PYTHIA_6_9B.dimensions)
    everything = Bin("any", 1, parameters(PYTHIA_6_9B, PYTHIA_6_9B.full_widths))
    rows = []
    for name in SPACES:
        prior, rng = Space(name, PYTHIA_6_9B, order, everything, "reject"), np.random.default_rng(1)
        costs = [parameters(PYTHIA_6_9B, prior.sample(rng).widths) for _ in range(draws)]
        for bin in BINS:
            plain = sum(cost in bin for cost in costs) / draws
            rows.append(measure_bin(name, order, bin, count) | {"plain_in_bin": plain})
    return {
        "proposals": count,
        "plain_draws": draws,
        "rows": rows,
        "machine": measured_on(("numpy",)),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "# Proposing candidates",
        "",
        f"Pythia-6.9B's dimensions, {result['proposals']} of each kind of proposal per row, and "
        f"{result['plain_draws']} plain draws from the distribution that samples start from: the "
        "share of these that is in the bin is what rejection sampling keeps.",
        "",
        "| space | bin | samples/s | mutations/s | crossovers/s | in bin | distinct | plain draws "
        "in bin |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['space']} | {row['bin']} | {row['samples_per_second']:.0f} "
            f"| {row['mutations_per_second']:.0f} | {row['crossovers_per_second']:.0f} "
            f"| {row['in_bin']:.1%} | {row['distinct']:.1%} | {row['plain_in_bin']:.1%} |"
        )
    return "\n".join([*lines, "", sentence(result["machine"]), ""])


def main() -> None:
    """Measure, print, and write beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--proposals", type=int, default=100)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    result = measure(options.proposals, options.draws)
    (HERE / "proposals.json").write_text(json.dumps(result, indent=2) + "\n")
    (HERE / "proposals.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
