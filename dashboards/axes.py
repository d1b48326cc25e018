"""What the pictures have in common: a figure without a screen, axes, numbers, colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from evo.storage.files import atomic_file

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
"""Okabe and Ito's, which the colour-blind can tell apart."""

WINNER = "#D55E00"
GREY = "#6b7280"
DPI = 120
LARGEST_NLL = 100.0
"""A larger value is drawn here, as no axis holds all that float64 does."""


def new_figure(width: float, height: float, dpi: int = DPI) -> Figure:
    """Make a figure of this size in inches, which needs no screen."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")


def tidy(axes: Axes) -> None:
    """Draw a pale grid behind the content, and no frame."""
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def count_axis(axis: XAxis | YAxis) -> None:
    """Let an axis have whole numbers."""
    axis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def perplexity(nll: Any) -> Any:
    """Take the exponential, of arrays too, as far as it can be drawn."""
    return np.exp(np.minimum(nll, LARGEST_NLL))


def perplexity_ticks(axes: Axes) -> None:
    """Readable ticks on a logarithmic axis, also where it spans less than a decade."""
    low, high = axes.get_ylim()
    if high / low < 4:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    elif high / low < 30:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    else:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 1000 else (1,)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def number(perplexity: float) -> str:
    """Write a perplexity as pictures show it."""
    return f"{perplexity:,.2f}" if perplexity < 1000 else f"{perplexity:,.6g}"
