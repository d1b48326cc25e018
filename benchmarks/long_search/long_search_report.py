"""The page and the picture of `benchmarks.long_search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import sentence
from dashboards.axes import COLOURS, new_figure, save

SHOWN = (1000, 10_000, 50_000, 100_000, 200_000)
"""Evaluations of the table's rows, as far as there are so many."""


def markdown(result: dict[str, Any]) -> str:
    """The page."""
    points = result["points"]
    ends = sorted({min(len(points) - 1, _place(points, count)) for count in SHOWN})
    stored = points[-1]["stored_bytes"]
    lines = [
        "# A long search",
        "",
        f"`{result['space']}` over Pythia-6.9B's dimensions, {result['rows']:,} evaluations, 50 a "
        f"generation, no workers: {result['seconds'] / 60:.0f} minutes in one process, most of "
        "them proposals. *End of a generation*: time of the driver's thread, without the proposals "
        "of the next one; *on disk*: until its part and the state are.",
        "",
        sentence(result["machine"]),
        "",
        "| evaluations | memory of the process | end of a generation | on disk | stored |",
        "| --- | --- | --- | --- | --- |",
    ]
    for place in ends:
        point = points[place]
        lines.append(
            f"| {point['evaluations']:,} | {point['memory'] / 2**20:,.0f} MiB | "
            f"{1000 * point['fold_seconds']:.0f} ms | {1000 * point['written_seconds']:.0f} ms | "
            f"{point['stored_bytes'] / 2**20:,.0f} MiB |"
        )
    lines += [
        "",
        f"- Written in all, journals and states included: {result['written_bytes'] / 2**20:,.0f} "
        f"MiB, {result['written_bytes'] / stored:.2f} times what is stored.",
        f"- Going on from the files: {result['resume_seconds']:.1f} s; the next generation's "
        f"proposals: {result['next_generation_seconds']:.1f} s.",
        f"- All rows without genomes, as a report reads them: {result['report_table_seconds']:.1f} "
        f"s; two columns by `pandas.read_parquet`: {result['pandas_two_columns_seconds']:.1f} s.",
        "",
        "![memory and time of a generation's end against evaluations](long_search.png)",
    ]
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw memory, and the time of a generation's end, against evaluations."""
    figure = new_figure(9, 4)
    axes = figure.subplots(1, 2)
    points = result["points"]
    evaluations = [point["evaluations"] for point in points]
    panels = (
        ("memory of the process, MiB", [point["memory"] / 2**20 for point in points]),
        ("end of a generation, ms", [1000 * point["fold_seconds"] for point in points]),
    )
    for each, (label, values), colour in zip(axes, panels, COLOURS, strict=False):
        each.plot(evaluations, values, color=colour)
        each.set(xlabel="evaluations", ylabel=label, ylim=(0, 1.15 * max(values)))
        each.ticklabel_format(axis="x", style="plain")
    save(figure, path)


def _place(points: list[dict[str, Any]], count: int) -> int:
    """Of the point nearest to so many evaluations."""
    return int(np.argmin([abs(point["evaluations"] - count) for point in points]))
