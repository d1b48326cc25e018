"""The picture of a study over its bins: cost against fitness, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from dashboards.axes import (
    COLOURS,
    WINNER,
    new_figure,
    number,
    perplexity,
    perplexity_ticks,
    save,
    tidy,
)
from dashboards.history_statistics import scored
from evo.search.pareto_front import Point, best_of_bins, pareto_front

FRONT = "#111827"
HEADROOM = 1.4
"""The axis ends this share above the worst best candidate: samples may be worse by far."""


def front_picture(histories: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Draw every candidate that was scored in full, the front, and the best of each bin.

    Args:
        histories: by the searches' names, `SPACE@BIN`; columns as in `evo.search.history.Row`.
        path: of the PNG.

    Raises:
        ValueError: nothing is scored in full in any of them.
        UserError: the picture cannot be written.
    """
    points = [
        Point(name, *values)
        for name, history in histories.items()
        for values in scored(history)[list(Point.__dataclass_fields__)[1:]].itertuples(index=False)
    ]
    if not points:
        raise ValueError("nothing is scored yet, so there is no front to draw")
    by_nll = all(point.fitness == point.nll for point in points)
    best, front = best_of_bins(points), pareto_front(points)
    figure = new_figure(10, 5.8)
    figure.suptitle("Cost against fitness, before any training", fontsize=13)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    _shade_bins(axes, points)
    spaces = list(dict.fromkeys(name.partition("@")[0] for name in histories))
    for space, colour in zip(spaces, COLOURS, strict=False):
        own = [point for point in points if point.search.startswith(f"{space}@")]
        axes.scatter([point.cost for point in own], _heights(own, by_nll), color=colour, s=12,
                     alpha=0.45, linewidths=0, zorder=2)  # fmt: skip
    # A step, not a line: between two points of the front nothing is known to be as good as both.
    axes.plot([point.cost for point in front], _heights(front, by_nll), color=FRONT, linewidth=1.6,
              drawstyle="steps-post", marker=".", markersize=5, zorder=3)  # fmt: skip
    axes.scatter([point.cost for point in best], _heights(best, by_nll), marker="*", s=240,
                 color=WINNER, edgecolors="white", zorder=4)  # fmt: skip
    for point, height in zip(best, _heights(best, by_nll), strict=True):
        text = f"{point.bin}: {number(height) if by_nll else f'{height:.4g}'}"
        axes.annotate(text, (point.cost, height), (0, -13), textcoords="offset points",
                      ha="center", va="top", fontsize=9, zorder=5)  # fmt: skip
    _finish(axes, best, front, by_nll=by_nll)
    handles = [
        *(
            Line2D([], [], color=colour, linestyle="", marker=".", markersize=9, label=space)
            for space, colour in zip(spaces, COLOURS, strict=False)
        ),
        Line2D([], [], color=FRONT, linewidth=1.6, marker=".", label="Pareto front"),
        Line2D(
            [], [], color=WINNER, marker="*", markersize=12, linestyle="", label="best of a bin"
        ),
    ]
    axes.legend(handles=handles, loc="upper right", fontsize=9, framealpha=0.85, edgecolor="none")
    save(figure, path)


def _heights(points: list[Point], by_nll: bool) -> np.ndarray:
    values = np.array([point.fitness for point in points])
    return perplexity(values) if by_nll else values


def _shade_bins(axes: Axes, points: list[Point]) -> None:
    """Behind each bin's candidates, from the cheapest to the dearest."""
    for bin in dict.fromkeys(point.bin for point in points):
        costs = [point.cost for point in points if point.bin == bin]
        axes.axvspan(min(costs), max(costs), color="#eceff3", zorder=0)


def _finish(axes: Axes, best: list[Point], front: list[Point], *, by_nll: bool) -> None:
    tidy(axes)
    shown = _heights([*best, *front], by_nll)
    low, high = float(shown.min()), float(shown.max())
    if by_nll:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, HEADROOM * high)
        perplexity_ticks(axes)
        axes.set_ylabel("perplexity on the fitness text")
    else:
        span = (high - low) or abs(high) or 1.0
        axes.set_ylim(low - 0.15 * span, high + HEADROOM * span / 2)
        axes.set_ylabel("fitness, the lower the better")
    low, high = axes.get_xlim()
    few = high / low < 20
    axes.xaxis.set_major_locator(MaxNLocator(7) if few else LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    of_parameters = all(point.cost == point.params for point in front)
    axes.set_xlabel("parameters" if of_parameters else "cost, as the bins count it")


def _size(value: float) -> str:
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.3g}{letter}"
    return f"{value:.3g}"
