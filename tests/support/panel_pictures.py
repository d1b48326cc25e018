"""A dashboard's panels, drawn from what Prometheus answers, where there is no Grafana."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from dashboards.grafana.panels import WIDTH, Dashboard, Panel

Series = Callable[[str], list[dict]]


def picture(dashboard: Dashboard, series: Series, path: Path) -> set[str]:
    """Draw the panels in the grid's rows.

    Args:
        dashboard: the dashboard.
        series: answers a query with its series, each with `metric` and `values`.
        path: PNG to write.

    Returns:
        The titles of the panels that have data.
    """
    lines = [line for row in dashboard.rows.values() for line in _lines(row)]
    figure = plt.figure(figsize=(16, 2.9 * len(lines)), layout="constrained")
    figure.suptitle(dashboard.title)
    drawn = set()
    parts = np.atleast_1d(figure.subfigures(len(lines)))
    for part, line in zip(parts, lines, strict=True):
        rest = WIDTH - sum(panel.width for panel in line)
        widths = [panel.width for panel in line] + [rest] * (rest > 0)
        places = np.atleast_1d(part.subplots(1, len(widths), width_ratios=widths))
        for axes in places[len(line) :]:
            axes.set_axis_off()
        for axes, panel in zip(places, line, strict=False):
            axes.set_title(panel.title, fontsize=10, loc="left")
            if _draw(axes, panel, series):
                drawn.add(panel.title)
    figure.savefig(path, dpi=70)
    plt.close(figure)
    return drawn


def _lines(row: tuple[Panel, ...]) -> list[list[Panel]]:
    """A row's panels as they wrap."""
    lines: list[list[Panel]] = [[]]
    for panel in row:
        if sum(each.width for each in lines[-1]) + panel.width > WIDTH:
            lines.append([])
        lines[-1].append(panel)
    return lines


def _draw(axes: Axes, panel: Panel, series: Series) -> bool:
    found = [
        (legend(query.legend, each["metric"]), np.array(each["values"], float))
        for query in panel.queries
        for each in series(query.expression)
    ]
    if panel.kind == "numbers":
        text = "\n".join(f"{name}: {values[-1, 1]:.4g}" for name, values in found)
        axes.text(0.02, 0.95, text, va="top", fontsize=11)
        axes.set_axis_off()
    elif panel.kind == "heatmap":
        _heatmap(axes, found)
    else:
        began = min((values[0, 0] for _, values in found), default=0.0)
        for name, values in found:
            axes.plot(values[:, 0] - began, values[:, 1], label=name)
        axes.legend(fontsize=6)
        axes.set_yscale("log" if panel.logarithmic else "linear")
    return bool(found)


def _heatmap(axes: Axes, found: list[tuple[str, np.ndarray]]) -> None:
    """Cumulative buckets made plain ones, a column per time."""
    buckets = sorted((float(name), values) for name, values in found)
    times = sorted({time for _, values in buckets for time in values[:, 0]})
    counts = np.zeros((len(buckets), len(times)))
    for row, (_, values) in enumerate(buckets):
        for time, value in values:
            counts[row, times.index(time)] = value
    plain = np.diff(counts, axis=0, prepend=0)
    bounds = [bound for bound, _ in buckets[:-1]]
    axes.pcolormesh(np.array(times) - times[0], bounds, plain[:-1])
    filled = np.flatnonzero(plain[:-1].sum(axis=1) > 0)
    axes.set_ylim(bounds[max(filled[0] - 2, 0)], bounds[min(filled[-1] + 2, len(bounds) - 1)])


def legend(template: str, labels: dict[str, str]) -> str:
    """A legend with the labels' values in their places."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), template)
