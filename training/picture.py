"""A picture of training curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evo.files import atomic_file
from training.compare import Curve

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5")


def draw_curves(curves: Sequence[Curve], path: Path, *, target: Curve | None = None) -> None:
    """Draw validation perplexity against FLOPs, both on logarithmic axes, as a PNG.

    Args:
        curves: a line each; their first points, at 0 FLOPs, are beyond the axis.
        path: of the picture.
        target: a line is drawn through its last point.
    """
    figure = Figure(figsize=(8, 5), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for index, curve in enumerate(curves):
        points = [(f, p) for f, p in zip(curve.flops, curve.perplexity, strict=True) if f > 0]
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[index % len(COLOURS)],
            linewidth=2,
            marker="o",
            markersize=3.5,
            label=f"{curve.name} ({curve.perplexity[-1]:.2f})",
        )
    if target is not None:
        axes.axhline(target.perplexity[-1], color="#888888", linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{target.name} ends here",
            (0.01, target.perplexity[-1]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color="#666666",
            fontsize=8,
        )
    axes.set_xlabel("training FLOPs, the teacher's forward passes included")
    axes.set_ylabel("validation perplexity")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="run (last perplexity)", alignment="left")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
