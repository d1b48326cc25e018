"""Pictures of searches, as PNG files: how fitness fell, and which shapes were fit.

The picture of training curves is `dashboards.training_curves.draw_curves`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dashboards.axes import (
    COLOURS,
    GREY,
    WINNER,
    count_axis,
    new_figure,
    number,
    perplexity,
    perplexity_ticks,
    save,
    tidy,
)
from dashboards.history_statistics import best_so_far, generation_medians, scored, winner
from evo.genome.subnet import Dimensions, Subnet

GENERATIONS = "viridis_r"
MOST_COLUMNS = 3
FEW_GENERATIONS = 15


def search_curves(histories: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draw the best perplexity so far against evaluations, a panel per bin, a line per search.

    Paler lines are the generations' medians; where a panel has one search only, dots are its
    candidates.

    Args:
        histories: by the searches' names, `SPACE@BIN` (or `LABEL@PANEL` in general); columns as
            in `evo.search.history.Row`. Those in which nothing is scored yet are left out.
        path: of the PNG.

    Raises:
        ValueError: nothing is scored in any of them.
        UserError: the picture cannot be written.
    """
    panels: dict[str, dict[str, pd.DataFrame]] = {}
    for name, history in histories.items():
        label, _, panel = name.partition("@")
        if not scored(history).empty:
            panels.setdefault(panel, {})[label] = history
    if not panels:
        raise ValueError("nothing is scored yet, so there is no curve to draw")
    labels = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    columns = min(len(panels), MOST_COLUMNS)
    rows = -(-len(panels) // columns)
    figure = new_figure(10, max(5.8, 4.4 * rows) if rows > 1 or columns < 3 else 5)
    figure.suptitle("Best candidate so far, before any training", fontsize=13)
    for index, (panel, searches) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_yscale("log")
        for label, history in searches.items():
            _search_curve(axes, label, history, COLOURS[labels.index(label) % len(COLOURS)])
        if len(searches) == 1:
            _candidate_dots(axes, next(iter(searches.values())))
        else:  # the first few candidates may be so bad that nothing else could be told apart
            axes.set_ylim(top=1.1 * max(_top_median(history) for history in searches.values()))
        _finish_curves(axes, f"bin {panel}" if panel else "")
        if index % columns == 0:
            axes.set_ylabel("perplexity on the fitness text")
    save(figure, path)


def _search_curve(axes: Axes, label: str, history: pd.DataFrame, colour: str) -> None:
    best = perplexity(best_so_far(history))
    medians = generation_medians(history)
    marker = "." if len(medians) <= FEW_GENERATIONS else ""
    axes.plot(medians["evaluations"], perplexity(medians["nll"]), color=colour, alpha=0.5,
              linewidth=1.2, marker=marker, zorder=2)  # fmt: skip
    axes.plot(np.arange(1, len(best) + 1), best, color=colour, linewidth=2.2, zorder=4,
              drawstyle="steps-post", label=f"{label}: {number(best[-1])}")  # fmt: skip
    axes.plot(len(best), best[-1], color=colour, marker="o", markersize=6, zorder=5)


def _top_median(history: pd.DataFrame) -> float:
    return float(perplexity(generation_medians(history)["nll"].max()))


def _candidate_dots(axes: Axes, history: pd.DataFrame) -> None:
    full = (history["status"] == "full").to_numpy()
    axes.plot(1 + np.flatnonzero(full), perplexity(history["nll"][full]), color=GREY, alpha=0.3,
              linestyle="", marker=".", markersize=4, zorder=1, label="a candidate")  # fmt: skip


def _finish_curves(axes: Axes, title: str) -> None:
    tidy(axes)
    perplexity_ticks(axes)
    count_axis(axes.xaxis)
    axes.set_xlabel("evaluations")
    axes.set_title(title, fontsize=11)
    handles, labels = axes.get_legend_handles_labels()
    median = Line2D([], [], color=GREY, alpha=0.5, linewidth=1.2)
    axes.legend([*handles, median], [*labels, "a generation's median"], loc="upper right",
                fontsize=9, framealpha=0.85, edgecolor="none")  # fmt: skip


def population_shapes(history: pd.DataFrame, kept: Subnet, path: Path, *, title: str = "") -> None:
    """Draw how the candidates' shapes relate to their fitness, and where the winner is.

    A panel each for layers, channels, query groups and neurons (of those, the mean of a
    candidate's layers), coloured by generation. Where layers may differ, bars below show the
    winner's widths in each of the teacher's layers.

    Args:
        history: of one search, columns as in `evo.search.history.row`.
        kept: its winner.
        path: of the PNG.
        title: over the picture.

    Raises:
        ValueError: nothing is scored.
        UserError: the picture cannot be written.
    """
    best = winner(history)
    if best is None:
        raise ValueError("nothing is scored yet, so there are no shapes to draw")
    rows = scored(history)
    layerwise = any(
        len(set(widths)) > 1 for column in ("groups", "neurons") for widths in rows[column]
    )
    figure = new_figure(10, 10.6 if layerwise else 7)
    upper: FigureBase = figure
    if layerwise:
        grid = figure.add_gridspec(2, 1, height_ratios=(6.6, 4))
        upper = figure.add_subfigure(grid[0])
        _layer_bars(figure.add_subfigure(grid[1]), kept)
    if title:
        figure.suptitle(title, fontsize=13)
    _shape_panels(upper, rows, best, kept.dimensions)
    save(figure, path)


def _shape_panels(
    figure: FigureBase, rows: pd.DataFrame, best: pd.Series, dimensions: Dimensions
) -> None:
    panels = (
        ("layers", "layers", dimensions.layers),
        ("channels", "residual channels", dimensions.channels),
        ("groups", "query groups per layer", dimensions.groups),
        ("neurons", "MLP neurons per layer", dimensions.neurons),
    )
    grid = figure.subplots(2, 2, sharey=True)
    colours = Normalize(0, max(1, int(rows["generation"].max())))
    for axes, (column, label, most) in zip(grid.flat, panels, strict=True):
        axes.scatter(_mean_width(rows[column]), perplexity(rows["nll"]), c=rows["generation"],
                     norm=colours, cmap=GENERATIONS, s=16, alpha=0.7, linewidths=0)  # fmt: skip
        axes.scatter(np.mean(best[column]), perplexity(best["nll"]), marker="*", s=260,
                     color=WINNER, edgecolors="white", zorder=3)  # fmt: skip
        tidy(axes)
        axes.set_yscale("log")
        perplexity_ticks(axes)
        axes.margins(x=0.08)
        count_axis(axes.xaxis)
        axes.set_xlabel(f"{label} (teacher: {most:,})")
    for axes in grid[:, 0]:
        axes.set_ylabel("perplexity")
    star = Line2D([], [], color=WINNER, marker="*", markersize=12, linestyle="", label="winner")
    grid.flat[0].legend(handles=[star], loc="best", framealpha=0.85, edgecolor="none")
    bar = figure.colorbar(ScalarMappable(colours, GENERATIONS), ax=grid, shrink=0.9, aspect=30)
    bar.set_label("generation")
    bar.locator = MaxNLocator(6, integer=True)
    bar.outline.set_visible(False)


def _mean_width(widths: pd.Series) -> NDArray[np.float64]:
    """Mean over the layers of each row, or the number itself where all layers share it."""
    return np.array([np.mean(value) for value in widths], np.float64)


def _layer_bars(figure: FigureBase, subnet: Subnet) -> None:
    """The kept groups and neurons of each of the teacher's layers, before all that it has."""
    dimensions = subnet.dimensions
    layers = np.arange(dimensions.layers)
    panels = (
        ("query groups", subnet.groups, dimensions.groups),
        ("MLP neurons", subnet.neurons, dimensions.neurons),
    )
    grid = figure.subplots(2, 1, sharex=True)
    for axes, (label, masks, most), colour in zip(grid, panels, COLOURS, strict=False):
        kept = np.where(subnet.layers, masks.sum(axis=1), 0)
        axes.bar(layers, most, width=0.8, color="#eceff3", label="teacher")
        axes.bar(layers, kept, width=0.8, color=colour, label="winner")
        dropped = layers[~subnet.layers]
        axes.plot(dropped, np.full(dropped.size, most / 2), color=GREY, marker="x", markersize=5,
                  linestyle="", label="layer dropped" if dropped.size else None)  # fmt: skip
        tidy(axes)
        axes.grid(visible=False)
        axes.set_ylim(0, most * 1.02)
        count_axis(axes.yaxis)
        axes.set_ylabel(label)
    figure.align_ylabels(grid)
    grid[0].set_title("The winner, layer by layer", fontsize=11, loc="left")
    grid[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=9)
    grid[1].xaxis.set_major_locator(MaxNLocator(16, integer=True))
    grid[1].set_xlim(-0.6, dimensions.layers - 0.4)
    grid[1].set_xlabel("layer of the teacher, counted from 0")
