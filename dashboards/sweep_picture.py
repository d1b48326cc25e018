"""A sweep in one picture: the curves of its runs, and what each setting makes of the perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from dashboards.axes import new_figure, save
from dashboards.training_curves import COLOURS
from training.sweep.trials import shown

COLUMNS = 4
BEST = "#d62728"
GREY = "#9aa0a6"


def draw_sweep(results: pd.DataFrame, settings: Sequence[str], path: Path) -> None:
    """Draw a PNG; nothing where no trial was validated.

    The first panel has validation perplexity against FLOPs, a line per run, in the colours of the
    setting that matters most. Each other one has the last perplexity against a setting: a dot per
    run that was not stopped early, and the median of each value where several runs share it.

    Args:
        results: as `training.sweep.sweep_results.read_results` gives them.
        settings: the names of those that were tried.
        path: of the picture.
    """
    drawn = results[[np.isfinite(perplexity) for perplexity in results["final_perplexity"]]]
    if drawn.empty:
        return
    finished = drawn[drawn["status"] == "finished"]
    ends = drawn if finished.empty else finished
    panels = 1 + len(settings)
    columns = min(panels, COLUMNS)
    lines = ceil(panels / columns)
    figure = new_figure(1.0 + 3.8 * columns, 0.4 + 3.6 * lines, dpi=130)
    axes = [figure.add_subplot(lines, columns, index + 1) for index in range(panels)]
    _curves(axes[0], drawn, _most_telling(ends, settings))
    for panel, name in zip(axes[1:], settings, strict=True):
        _setting(panel, ends, name)
        panel.sharey(axes[1])
    best = results.iloc[0]
    figure.suptitle(
        f"best: {', '.join(f'{name} {shown(best[name])}' for name in settings)}, "
        f"validation perplexity {best['final_perplexity']:.2f}",
        fontsize=11,
    )
    save(figure, path)


def _most_telling(ends: pd.DataFrame, settings: Sequence[str]) -> str | None:
    """The setting of few values whose medians of the perplexity's logarithm differ most."""
    spread = {}
    for name in settings:
        medians = [np.log(group.median()) for _, group in _by_value(ends, name)]
        if 1 < len(medians) <= len(COLOURS):
            spread[name] = max(medians) - min(medians)
    return max(spread, key=lambda name: spread[name]) if spread else None


def _by_value(ends: pd.DataFrame, name: str) -> list[tuple[str, pd.Series]]:
    """The last perplexities for each value of a setting, in the values' order."""
    labels = [shown(value) for value in ends[name]]
    return [
        (label, ends["final_perplexity"][[each == label for each in labels]])
        for label in sorted(set(labels), key=_order)
    ]


def _order(label: str) -> tuple[int, float, str]:
    try:
        return (0, float(label), "")
    except ValueError:
        return (1, 0.0, label)


def _curves(axes: Axes, drawn: pd.DataFrame, name: str | None) -> None:
    labels = sorted({shown(value) for value in drawn[name]}, key=_order) if name else []
    labelled: set[str] = set()
    for rank, row in enumerate(drawn.to_dict("records")):
        points = [
            (flops, perplexity)
            for flops, perplexity in zip(row["curve_flops"], row["curve_perplexity"], strict=True)
            if flops > 0 and np.isfinite(perplexity)
        ]
        if not points:
            continue
        label = shown(row[name]) if name else ""
        axes.plot(
            *zip(*points, strict=True),
            color=COLOURS[labels.index(label) % len(COLOURS)] if name else GREY,
            linewidth=2.4 if rank == 0 else 1.1,
            alpha=1.0 if rank == 0 else 0.75,
            label=None if label in labelled else label,
        )
        labelled.add(label)
        if row["status"] == "stopped":
            axes.plot(*points[-1], marker="x", color="#444444", markersize=5)
        elif rank == 0:
            axes.plot(*points[-1], marker="*", color=BEST, markersize=12, zorder=5)
    axes.set_xscale("log")
    # Runs begin late in a decade and end early in the next: powers of ten alone would be too few.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training FLOPs")
    axes.set_ylabel("validation perplexity")
    if name:
        axes.legend(frameon=False, fontsize=8, title=_title(name), title_fontsize=8)
    _tidy(axes)


def _setting(axes: Axes, ends: pd.DataFrame, name: str) -> None:
    perplexities = ends["final_perplexity"].to_numpy()
    groups = _by_value(ends, name)
    positions = _positions(axes, list(ends[name]), [label for label, _ in groups])
    axes.scatter(positions, perplexities, s=22, color=COLOURS[0], alpha=0.75, zorder=3)
    axes.scatter(positions[:1], perplexities[:1], s=130, marker="*", color=BEST, zorder=4)
    if any(len(group) > 1 for _, group in groups):
        at = [positions[ends.index.get_indexer(group.index)[0]] for _, group in groups]
        axes.plot(at, [group.median() for _, group in groups], color=GREY, linewidth=1.5)
        axes.scatter(at, [group.median() for _, group in groups], marker="_", s=260, color=GREY)
    axes.set_xlabel(_title(name))
    _tidy(axes)


def _positions(axes: Axes, values: list[Any], labels: list[str]) -> np.ndarray:
    """Find the positions of values: of drawn numbers on their axis, of few values side by side."""
    if len(labels) > 6 and all(isinstance(value, int | float) for value in values):
        numbers = np.array(values, float)
        if numbers.min() > 0 and numbers.max() / numbers.min() > 20:
            axes.set_xscale("log")
        return numbers
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    return np.array([labels.index(shown(value)) for value in values], float)


def _title(name: str) -> str:
    return name.replace("_", " ")


def _tidy(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    near = high / low < 4
    axes.yaxis.set_major_locator(MaxNLocator(6) if near else LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#e3e5e8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
