"""The tables and the picture of `benchmarks.pool.scaling`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from benchmarks.machine import sentence
from dashboards.axes import COLOURS, GREY, new_figure, save, tidy

STYLES = {
    "one search, unsharded": (COLOURS[1], "-"),
    "one search, sharded": (COLOURS[0], "-"),
    "twelve searches, sharded": (COLOURS[2], "-"),
    "one search, rungs": (COLOURS[0], ":"),
    "twelve searches, rungs": (COLOURS[2], ":"),
}
TARGET = 0.9


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Its lines; all columns but the first to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def draw(result: dict[str, Any], path: Path) -> None:
    """Utilisation against workers."""
    figure = new_figure(7.0, 4.2)
    axes = figure.add_subplot()
    counts = sorted({row["workers"] for row in result["runs"]})
    for name, (colour, style) in STYLES.items():
        rows = [row for row in result["runs"] if row["setting"] == name]
        axes.plot(
            [row["workers"] for row in rows],
            [row["utilisation"] for row in rows],
            color=colour, linestyle=style, marker="o", markersize=4, label=name,
        )  # fmt: skip
    axes.axhline(TARGET, color=GREY, linewidth=0.8, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(counts))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("simulated workers, 200 ms a unit")
    axes.set_ylabel("utilisation")
    tidy(axes)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    save(figure, path)


def real_lines(real: dict[str, Any]) -> list[str]:
    """The second worker's gain."""
    return [
        "## Two real workers",
        "",
        f"A second worker gains {real['gains']['pool']:.2f}x on a pool, a second bare process "
        f"{real['gains']['bare']:.2f}x: **{real['share_of_bare_gain']:.1%}** of it (target: 95%). "
        f"{real['units']} units ({real['candidates']} candidates of the embedded teacher, "
        f"{real['unit_tokens']:,} tokens a unit), one thread each, all contenders warm and in "
        f"turn, medians of {len(next(iter(real['all_seconds'].values())))}. Processor seconds are "
        "of all processes, those of Ray too, which is there while the bare ones compute.",
        "",
        *table(
            ["", "seconds", "processor seconds"],
            [
                [name, f"{seconds:.2f}", f"{real['processor_seconds'][name]:.2f}"]
                for name, seconds in real["seconds"].items()
            ],
        ),
    ]


def simulated_lines(result: dict[str, Any]) -> list[str]:
    """Utilisation, and what the driver does meanwhile."""
    counts = sorted({row["workers"] for row in result["runs"]})
    cells = {(row["setting"], row["workers"]): row for row in result["runs"]}
    largest = [row for row in result["runs"] if row["workers"] == counts[-1]]
    return [
        "## Simulated workers",
        "",
        "Utilisation. A search has a population of 50 over Pythia-6.9B's dimensions; the one is "
        "coarse-layerwise, the twelve are four spaces in three bins. A candidate takes a worker "
        "800 ms: one unit of 65,536 tokens (unsharded) or four of 16,384 and 200 ms (sharded). "
        "With the default rungs, it has up to 32 units of 200 ms, so that the first rung of 1/32 "
        "is one unit. Real driver, strategies, histories and pool; the barrier at the end of a "
        "generation, or of a rung, is in all figures. Runs are cut off after "
        f"{min(row['seconds'] for row in result['runs']):.0f} to "
        f"{max(row['seconds'] for row in result['runs']):.0f} s.",
        "",
        *table(
            ["workers", *STYLES],
            [
                [str(count), *(f"{cells[name, count]['utilisation']:.1%}" for name in STYLES)]
                for count in counts
            ],
        ),
        "",
        "![Utilisation against workers](scaling.png)",
        "",
        f"With {counts[-1]} workers, of which each is a process of "
        f"{result['ceilings'][-1]['resident_mib']:.0f} MiB without torch, on the same cores as the "
        "driver, whose thread is busy for this share of the time (proposing, dispatching, "
        "journal, history):",
        "",
        *table(
            ["", "units/s", "generations", "driver's thread", "its process"],
            [
                [
                    row["setting"],
                    f"{row['units_per_second']:.0f}",
                    str(row["generations"]),
                    f"{row['driver_thread']:.0%}",
                    f"{row['driver_process']:.0%}",
                ]
                for row in largest
            ],
        ),
    ]


def ceiling_lines(result: dict[str, Any]) -> list[str]:
    """Units per second at most, and the GPUs that they feed."""
    ceilings = result["ceilings"]
    rate = ceilings[-1]["units_per_second"]
    twelve = next(
        row for row in reversed(result["runs"]) if row["setting"] == "twelve searches, sharded"
    )
    whole = twelve["units_per_second"] / twelve["driver_thread"]
    return [
        "## The driver's ceiling",
        "",
        "Units per second where a unit takes no time, workers and driver on the same cores; "
        f"genomes of Pythia-6.9B ({ceilings[0]['genome_bytes'] / 1024:.0f} KiB) and small ones.",
        "",
        *table(
            ["workers", "Pythia-6.9B's genomes", "512 bytes"],
            [
                [
                    str(row["workers"]),
                    f"{row['units_per_second']:.0f}",
                    f"{row['small_genome_units_per_second']:.0f}",
                ]
                for row in ceilings
            ],
        ),
        "",
        f"Pool alone: {rate:.0f} units/s with {ceilings[-1]['workers']} workers. With the "
        "proposals, journals and histories of the twelve sharded searches, the driver's thread "
        f"would be busy all the time at {whole:.0f} units/s. GPUs that either feeds, if a GPU "
        f"computes {result['assumed_flops'] / 1e12:.0f} TFLOP/s (assumed: 40% of an H100's 989 in "
        "bfloat16; not measured), a unit being 16,384 tokens in sequences of 2,048:",
        "",
        *table(
            ["bin", "TFLOP a unit", "ms a unit", "GPUs, pool alone", "GPUs, whole driver"],
            [
                [
                    row["bin"],
                    f"{row['unit_flops'] / 1e12:.1f}",
                    f"{1000 * row['unit_seconds']:.0f}",
                    f"{rate * row['unit_seconds']:.0f}",
                    f"{whole * row['unit_seconds']:.0f}",
                ]
                for row in result["unit_times"]
            ],
        ),
    ]


def markdown(result: dict[str, Any]) -> str:
    """Everything."""
    lines = [
        "# Scaling",
        "",
        *real_lines(result["real"]),
        "",
        *simulated_lines(result),
        "",
        *ceiling_lines(result),
        "",
        sentence(result["machine"]),
    ]
    return "\n".join([*lines, ""])
