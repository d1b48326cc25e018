"""The fraction of the baseline's FLOPs at which each run reaches the baseline's last perplexity.

Runs that differ only in their seed are compared as one group, with an interval over their seeds,
see `training.comparison.seeds`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from rich.table import Table
from typing_extensions import TypedDict

from evo.errors import UserError
from evo.storage.files import write_whole
from evo.storage.records import Count
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.run_directory import read_settings
from training.comparison.curves import Comparison, Curve, against, read_curve
from training.comparison.flops_before import FlopsBefore, flops_before
from training.comparison.seeds import Interval, group_by_seed, group_names, ratio_interval


class Validated(TypedDict):
    """The settings that say on what a run was validated, and which of its group it is."""

    seed: NotRequired[int | None]
    validation_hash: NotRequired[str | None]
    validation_tokens: NotRequired[Count | None]


@dataclass(frozen=True)
class Pairs:
    """The comparisons of all runs of a group with all runs of the baseline.

    Attributes:
        comparisons: for each of the baseline's runs, those of the group's runs; none for the
            baseline itself.
    """

    comparisons: tuple[tuple[Comparison, ...], ...] = ()

    @property
    def is_bound(self) -> bool:
        """Whether a run matches the baseline from its start; the ratio is then a lower bound."""
        return any(pair.match.is_bound for row in self.comparisons for pair in row)

    @property
    def interval(self) -> Interval:
        """The ratio of the baseline's FLOPs to those to match it; 0: a run never matches it."""
        if not self.comparisons:
            return Interval(1.0, 1.0, 1.0, None)
        return ratio_interval(
            np.array([[pair.ratio or 0.0 for pair in row] for row in self.comparisons], np.float64)
        )

    @property
    def ratio(self) -> float | None:
        """The interval's middle; None: a run never matches the baseline."""
        return self.interval.ratio or None

    @property
    def ratio_text(self) -> str:
        """The ratio for a table: `≥ 8.00x` where it is a bound."""
        if self.ratio is not None:
            return f"{'≥ ' if self.is_bound else ''}{self.ratio:.2f}x"
        pairs = [pair.ratio for row in self.comparisons for pair in row]
        if len(pairs) == 1 or not any(pairs):
            return "not reached"
        return f"not reached by {pairs.count(None)} of {len(pairs)} pairs"

    @property
    def interval_text(self) -> str:
        """The interval for a table; empty for a single run against a single run."""
        interval = self.interval
        if interval.kind is None:
            return ""
        low, high = (f"{end:.2f}" if end else "none" for end in (interval.low, interval.high))
        return f"{low} – {high}"


@dataclass(frozen=True)
class Group:
    """A setting's runs against the baseline's.

    Attributes:
        name: name of the setting.
        runs: run directories, one for each seed.
        curves: the runs' validations.
        before: FLOPs that were spent for each run before its first step.
        alone: comparisons by the FLOPs of the runs alone.
        in_all: comparisons with the FLOPs before the first step counted on both sides.
    """

    name: str
    runs: tuple[Path, ...]
    curves: tuple[Curve, ...]
    before: tuple[FlopsBefore, ...]
    alone: Pairs = Pairs()
    in_all: Pairs = Pairs()

    @property
    def flops(self) -> float:
        """FLOPs of a whole run, the mean over seeds."""
        return math.fsum(curve.flops[-1] for curve in self.curves) / len(self.curves)

    @property
    def flops_before(self) -> float:
        """FLOPs before a run's first step, the mean over seeds."""
        return math.fsum(before.total for before in self.before) / len(self.before)

    @property
    def perplexity(self) -> float:
        """Perplexity at the last validation, the geometric mean over seeds."""
        logs = [math.log(curve.perplexity[-1]) for curve in self.curves]
        return math.exp(math.fsum(logs) / len(logs))

    @property
    def has_cached_teacher(self) -> bool:
        """Whether the FLOPs are without those of the teacher, see `Curve`."""
        return any(curve.cached_teacher for curve in self.curves)


@dataclass(frozen=True)
class GroupComparison:
    """The groups of some runs, and the group that the others are compared with.

    Attributes:
        baseline: the group whose last perplexity is to be matched; it is one of `groups`.
        groups: all groups, in the order of their first runs.
    """

    baseline: Group
    groups: list[Group]


def compare(
    runs: Sequence[Path], *, baseline: Path | None = None, out: Path | None = None
) -> GroupComparison:
    """Compare runs; with `out`, also write `comparison.json` there.

    Args:
        runs: run directories of `evo pretrain`.
        baseline: the run whose last perplexity is to be matched, together with all that differ from
            it only in their seed; by default the first run.
        out: a directory.

    Raises:
        UserError: a directory that is no run, or runs that were validated on different text.
    """
    if not runs:
        raise UserError("name at least one run directory of `evo pretrain`")
    paths = list(dict.fromkeys(map(Path, runs)))
    reference_run = paths[0] if baseline is None else Path(baseline)
    if reference_run not in paths:
        paths.insert(0, reference_run)
    _check_comparable(paths)
    groups = _groups(paths, reference_run)
    reference = next(group for group in groups if reference_run in group.runs)
    if out is not None:
        described = json.dumps(_described(reference, groups), indent=2)
        write_whole(Path(out) / "comparison.json", described + "\n")
    return GroupComparison(reference, groups)


def _groups(runs: Sequence[Path], reference_run: Path) -> list[Group]:
    members = group_by_seed(runs)
    groups = [
        Group(name, tuple(paths), tuple(map(read_curve, paths)), tuple(map(flops_before, paths)))
        for name, paths in zip(group_names(members), members, strict=True)
    ]
    reference = next(group for group in groups if reference_run in group.runs)

    def pairs(group: Group, *, in_all: bool) -> Pairs:
        def before(one: FlopsBefore) -> float:
            return one.total if in_all else 0.0

        return Pairs(
            tuple(
                tuple(
                    against(
                        baseline, curve, other_flops=before(own), baseline_other_flops=before(its)
                    )
                    for curve, own in zip(group.curves, group.before, strict=True)
                )
                for baseline, its in zip(reference.curves, reference.before, strict=True)
            )
        )

    return [
        group
        if group is reference
        else replace(group, alone=pairs(group, in_all=False), in_all=pairs(group, in_all=True))
        for group in groups
    ]


def _check_comparable(runs: Sequence[Path]) -> None:
    first_runs: dict[Any, Path] = {}
    for run in runs:
        if not (run / SETTINGS).is_file():
            raise UserError(f"{run} is no pretraining run: it has no {SETTINGS}")
        settings = read_settings(run, Validated, of="`evo pretrain`")
        validation = (settings.get("validation_hash"), settings.get("validation_tokens"))
        first_runs.setdefault(validation, run)
    if len(first_runs) > 1:
        first, second = list(first_runs.values())[:2]
        raise UserError(
            f"{first} and {second} were validated on different text: compare runs with "
            "the same --validation-text and --validation-tokens"
        )


def table(baseline: Group, groups: Sequence[Group]) -> Table:
    """The comparison as a table for the terminal."""
    shown = Table(title=f"FLOPs to match {baseline.name} (perplexity {baseline.perplexity:.2f})")
    shown.add_column("run")
    headings = ["n", "FLOPs", "perplexity", "FLOPs to match", "ratio", "over seeds"]
    if has_before := any(group.flops_before for group in groups):
        headings += ["FLOPs\nbefore", "ratio, all\ncounted", "over seeds"]
    for heading in headings:
        shown.add_column(heading, justify="right")
    for group in groups:
        ratio = group.alone.ratio
        match = "–" if ratio is None else f"{baseline.flops / ratio:.3g}"
        cells = [
            group.name,
            str(len(group.runs)),
            f"{group.flops:.3g}",
            f"{group.perplexity:.2f}",
            f"≤ {match}" if group.alone.is_bound else match,
            group.alone.ratio_text,
            group.alone.interval_text,
        ]
        if has_before:
            cells += [
                f"{group.flops_before:.3g}", group.in_all.ratio_text, group.in_all.interval_text
            ]  # fmt: skip
        shown.add_row(*cells)
    notes = []
    kinds = {group.alone.interval.kind for group in groups} - {None}
    if kinds:
        notes.append(
            "n: seeds. Ratio: geometric mean over all pairs of seeds. Over seeds: "
            + ", or ".join(
                {
                    "min-max": "the least and the largest of these pairs",
                    "bootstrap 95%": "95% bootstrap over the seeds of both sides",
                }[str(kind)]
                for kind in sorted(map(str, kinds))
            )
            + "."
        )
    if has_before:
        notes.append("FLOPs before: of the search and the train-off that a run's start is from.")
    if cached := [group.name for group in groups if group.has_cached_teacher]:
        notes.append(
            f"FLOPs of {', '.join(cached)}: without those of the teacher, whose logits were cached."
        )
    shown.caption = " ".join(notes) or None
    return shown


def _described(baseline: Group, groups: Sequence[Group]) -> dict[str, Any]:
    return {
        "baseline": baseline.name,
        "target_perplexity": baseline.perplexity,
        "baseline_flops": baseline.flops,
        "runs": [
            {
                "run": group.name,
                "n": len(group.runs),
                "directories": [str(run) for run in group.runs],
                "flops": group.flops,
                "perplexity": group.perplexity,
                "perplexities": [curve.perplexity[-1] for curve in group.curves],
                "flops_to_match": None
                if group.alone.ratio is None
                else baseline.flops / group.alone.ratio,
                "ratio": group.alone.ratio,
                "ratio_is_lower_bound": group.alone.is_bound,
                "cached_teacher_left_out": group.has_cached_teacher,
                "ratio_interval": _ends(group.alone.interval),
                "interval": group.alone.interval.kind,
                "search_flops": [before.search for before in group.before],
                "train_off_flops": [before.train_off for before in group.before],
                "ratio_in_all": group.in_all.ratio,
                "ratio_in_all_interval": _ends(group.in_all.interval),
            }
            for group in groups
        ],
    }


def _ends(interval: Interval) -> list[float | None] | None:
    return None if interval.kind is None else [interval.low or None, interval.high or None]
