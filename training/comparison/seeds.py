"""Runs that differ only in their seed are grouped by their settings, and compared as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evo.storage.run_directory import flat, read_settings
from training.run_directory import FREE

ENOUGH = 5
"""With at least this number of seeds on both sides, the interval is a bootstrap."""

RESAMPLES = 10_000


def group_by_seed(runs: Sequence[Path]) -> list[list[Path]]:
    """Runs of the same settings but for their seeds, in the order in which they are given.

    Runs that have even the seed in common are copies of one run, and stand apart: they would make
    an interval narrower than it is.

    Raises:
        UserError: a directory is no run.
    """
    groups: dict[str, list[tuple[Path, object]]] = {}
    for run in runs:
        settings = flat(read_settings(run))
        seed = settings.pop("seed", None)
        fixed = sorted((key, str(value)) for key, value in settings.items() if key not in FREE)
        groups.setdefault(repr(fixed), []).append((run, seed))
    members_by_group = []
    for members in groups.values():
        paths = [path for path, _ in members]
        if len({seed for _, seed in members}) == len(members):
            members_by_group.append(paths)
        else:
            members_by_group += [[path] for path in paths]
    return sorted(members_by_group, key=lambda paths: list(runs).index(paths[0]))


def group_names(groups: Sequence[Sequence[Path]]) -> list[str]:
    """The directories' name, without a number at its end where a group has several.

    A group has its first run's whole path where that name is not the same for all of its runs, or
    is another group's too.
    """
    names = []
    for paths in groups:
        if len(paths) == 1:
            names.append(paths[0].name)
            continue
        stems = {re.sub(r"[-_.=]*(seed|s)?[-_.=]*\d*$", "", path.name) for path in paths}
        names.append(stems.pop() if len(stems) == 1 else "")
    return [
        name if name and names.count(name) == 1 else str(paths[0])
        for name, paths in zip(names, groups, strict=True)
    ]


@dataclass(frozen=True)
class Interval:
    """A ratio over the seeds of both sides.

    Attributes:
        ratio: the geometric mean over all pairs of seeds; 0 where a pair has none.
        low: lower end of the interval.
        high: upper end of the interval.
        kind: the least and the largest of all pairs; or, with enough seeds, from the 2.5th to the
            97.5th percentile of the bootstrap over the seeds of both sides (Efron 1979); none for
            a single pair.
    """

    ratio: float
    low: float
    high: float
    kind: Literal["min-max", "bootstrap 95%"] | None


def ratio_interval(ratios: NDArray[np.float64]) -> Interval:
    """The interval of a ratio whose both sides have seeds.

    Args:
        ratios: the ratio of each pair of seeds, 0 where there is none, shape [baseline's seeds,
            group's seeds].
    """
    if ratios.size == 1:
        only = float(ratios[0, 0])
        return Interval(only, only, only, None)
    with np.errstate(divide="ignore"):
        logs = np.log(ratios)
    kind: Literal["min-max", "bootstrap 95%"]
    if min(ratios.shape) < ENOUGH:
        low, high, kind = logs.min(), logs.max(), "min-max"
    else:
        rng = np.random.default_rng(0)
        rows, columns = (rng.integers(n, size=(RESAMPLES, n)) for n in ratios.shape)
        means = logs[rows[:, :, None], columns[:, None, :]].mean((1, 2))
        # No interpolation: a pair without a ratio has a logarithm of minus infinity.
        low, high = np.quantile(means, (0.025, 0.975), method="inverted_cdf")
        kind = "bootstrap 95%"
    return Interval(float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high)), kind)
