"""A train-off in one picture: how each finalist trained, and where it was left behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dashboards.axes import GREY, WINNER, new_figure, number, perplexity_ticks, save, tidy

PICTURE = "selection.png"

PALETTE = "cividis"
"""Colours of the numbers of layers, in an order that the colour-blind see too."""


def draw_selection(summary: Mapping[str, Any], path: Path) -> None:
    """Draw validation perplexity against tokens of training as a PNG, a line per finalist.

    Rounds are as wide as each other, though each has twice the tokens of those before it together.
    A cross ends the line of a finalist that does not go on, a star that of the winner.

    Args:
        summary: content of a train-off's `summary.json`.
        path: file to write.

    Raises:
        UserError: the file cannot be written.
    """
    ends = [0, *(each["tokens"] for each in summary["rounds"])]
    figure = new_figure(9.0, 5.2)
    axes = figure.add_subplot()
    layers = [one["layers"] for one in summary["finalists"]]
    shades = Normalize(min(layers), max(max(layers), min(layers) + 1))
    for one in reversed(summary["finalists"]):
        is_winner = one["candidate"] == summary["winner"]["candidate"]
        colour = WINNER if is_winner else colormaps[PALETTE](shades(one["layers"]))
        _curve(axes, one, ends, colour, is_winner=is_winner)
    for place in range(1, len(ends)):
        axes.axvline(place, color=GREY, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    tidy(axes)
    axes.set_yscale("log")
    perplexity_ticks(axes)
    axes.set_xticks(range(len(ends)), [f"{tokens:,}" for tokens in ends])
    axes.set_xlabel("tokens of training at the ends of rounds")
    axes.set_ylabel("validation perplexity")
    winner = summary["winner"]
    axes.set_title(
        f"{summary['bin']}: {winner['candidate']} ({winner['layers']} layers) ends the train-off "
        f"at {number(winner['perplexity'])}",
        fontsize=11,
        loc="left",
    )
    if len(set(layers)) > 1:
        scale = figure.colorbar(
            ScalarMappable(shades, PALETTE),
            ax=axes,
            label="layers of the others",
            pad=0.01,
            shrink=0.7,
        )
        scale.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        scale.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    save(figure, path)


def _curve(
    axes: Axes, one: Mapping[str, Any], ends: list[int], colour: Any, *, is_winner: bool
) -> None:
    curve = [
        (tokens, p)
        for tokens, p in zip(one["curve_tokens"], one["curve_perplexity"], strict=True)
        if p
    ]
    if not curve:
        return
    tokens, perplexities = zip(*curve, strict=True)
    places = np.interp(tokens, ends, range(len(ends)))
    front = 4 if is_winner else 2
    axes.plot(places, perplexities, color=colour, linewidth=2.8 if is_winner else 1.3, zorder=front)
    axes.plot(
        places[-1],
        perplexities[-1],
        color=colour,
        marker="*" if is_winner else "x",
        markersize=15 if is_winner else 6,
        markeredgewidth=1 if is_winner else 1.8,
        zorder=front + 1,
        clip_on=False,
    )
