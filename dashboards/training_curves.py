"""A picture of training curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from dashboards.axes import new_figure, save
from training.comparison.compare import Group
from training.comparison.curves import Curve

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5")


def draw_curves(curves: Sequence[Curve], path: Path, *, target: Curve | None = None) -> None:
    """Draw validation perplexity against FLOPs, both on logarithmic axes, as a PNG.

    Args:
        curves: a line each; their first points, at 0 FLOPs, are beyond the axis.
        path: of the picture.
        target: a line is drawn through its last point.
    """
    figure, axes = _axes()
    for index, curve in enumerate(curves):
        _draw(axes, curve, COLOURS[index % len(COLOURS)], _label(curve.name, [curve]))
    if target is not None:
        _draw_target(axes, target.name, target.perplexity[-1])
    _finish(figure, axes, path, curves)


def draw_groups(groups: Sequence[Group], baseline: Group, path: Path) -> None:
    """The same of settings: a line for each seed, and where they match the baseline.

    A diamond on the baseline's last perplexity stands at the FLOPs to match it, the bar through it
    is the interval over seeds; it has no right end where a run never matches.

    Args:
        groups: a colour each.
        baseline: one of them.
        path: of the picture.
    """
    figure, axes = _axes()
    for index, group in enumerate(groups):
        colour = COLOURS[index % len(COLOURS)]
        for number, curve in enumerate(group.curves):
            label = "_" if number else _label(group.name, group.curves)
            _draw(axes, curve, colour, label, width=2 / len(group.curves) ** 0.5)
        interval = group.alone.interval
        if group is baseline or not interval.high:
            continue
        ends = [
            baseline.flops / ratio if ratio else group.flops
            for ratio in (interval.high, interval.low)
        ]
        height = [baseline.perplexity] * 2
        axes.plot(ends, height, color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt")
        if interval.ratio:
            axes.plot(baseline.flops / interval.ratio, height[0], color=colour, marker="D")
    _draw_target(axes, baseline.name, baseline.perplexity)
    _finish(figure, axes, path, [curve for group in groups for curve in group.curves])


def _axes() -> tuple[Figure, Axes]:
    figure = new_figure(8, 5, dpi=160)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    return figure, axes


def _label(name: str, curves: Sequence[Curve]) -> str:
    last = [curve.perplexity[-1] for curve in curves]
    if len(last) == 1:
        return f"{name} ({last[0]:.2f})"
    return f"{name} ({min(last):.2f} to {max(last):.2f}, n = {len(last)})"


def _draw(axes: Axes, curve: Curve, colour: str, label: str, width: float = 2) -> None:
    points = [(f, p) for f, p in zip(curve.flops, curve.perplexity, strict=True) if f > 0]
    axes.plot(
        *zip(*points, strict=True),
        color=colour,
        linewidth=width,
        marker="o",
        markersize=1.75 * width,
        label=label,
    )


def _draw_target(axes: Axes, name: str, perplexity: float) -> None:
    axes.axhline(perplexity, color="#888888", linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{name} ends here",
        (0.01, perplexity),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        color="#666666",
        fontsize=8,
    )


def _finish(figure: Figure, axes: Axes, path: Path, curves: Sequence[Curve]) -> None:
    is_cached = any(curve.cached_teacher for curve in curves)
    besides = ", but for cached ones" if is_cached else ""
    axes.set_xlabel(f"training FLOPs, the teacher's forward passes included{besides}")
    axes.set_ylabel("validation perplexity")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="run (last perplexity)", alignment="left")
    save(figure, path)
