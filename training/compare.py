"""Runs side by side: at what fraction of the baseline's FLOPs each reaches where it ended."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from evo.errors import UserError
from evo.files import atomic_file
from evo.settings import FILE as SETTINGS
from training import log


@dataclass(frozen=True)
class Curve:
    """A run's validations.

    Attributes:
        name: of the run.
        flops: spent up to each validation, from 0, rising.
        perplexity: at each of them.
    """

    name: str
    flops: tuple[float, ...]
    perplexity: tuple[float, ...]


@dataclass(frozen=True)
class Match:
    """Where a run reaches a perplexity.

    Attributes:
        flops: spent by then; None: it never does.
        is_bound: the run was there before its first step, and `flops`, those of its first
            validation after that, is the most it can be said to have needed.
    """

    flops: float | None
    is_bound: bool = False


@dataclass(frozen=True)
class Comparison:
    """A run against the baseline.

    Attributes:
        run: its name.
        flops: of the whole run.
        perplexity: at its last validation.
        match: where it reaches the baseline's last perplexity.
        ratio: the baseline's FLOPs over those; None: it never gets there.
    """

    run: str
    flops: float
    perplexity: float
    match: Match
    ratio: float | None

    @property
    def ratio_text(self) -> str:
        """The ratio for a table: `≥ 8.00x` where it is a bound."""
        if self.ratio is None:
            return "not reached"
        return f"{'≥ ' if self.match.is_bound else ''}{self.ratio:.2f}x"


def read_curve(run: Path, name: str | None = None) -> Curve:
    """The validations of a run, finished or not.

    Args:
        run: run directory of `evo pretrain`.
        name: by default the directory's.

    Raises:
        UserError: no run, or one without at least two validations.
    """
    if not (run / SETTINGS).is_file():
        raise UserError(f"{run} is no pretraining run: it has no {SETTINGS}")
    points = [
        (float(row["flops"]), float(row["validation_perplexity"]))
        for row in log.rows(run)
        if math.isfinite(row.get("validation_perplexity", math.inf))
    ]
    if len(points) < 2:
        raise UserError(
            f"{run} has {len(points)} validations: pretrain with --validation-text, "
            "and compare when it has come to the second"
        )
    flops, perplexity = zip(*points, strict=True)
    return Curve(name or run.name, flops, perplexity)


def flops_to_match(curve: Curve, target: float) -> Match:
    """How many FLOPs a run takes to first reach a perplexity.

    Between two validations the logarithm of the perplexity is taken to fall linearly with FLOPs;
    curves bend the other way, so this is rather too many than too few.

    Args:
        curve: of the run.
        target: the perplexity.
    """
    if curve.perplexity[0] <= target:
        return Match(next(f for f in curve.flops if f > 0), is_bound=True)
    points = list(zip(curve.flops, curve.perplexity, strict=True))
    for (flops, above), (next_flops, below) in pairwise(points):
        if below <= target:
            part = math.log(above / target) / math.log(above / below)
            return Match(flops + part * (next_flops - flops))
    return Match(None)


def perplexity_at(curve: Curve, flops: float) -> float | None:
    """A run's perplexity once it has spent so many FLOPs, interpolated as in `flops_to_match`.

    Returns:
        None where the run ended before that.
    """
    points = list(zip(curve.flops, curve.perplexity, strict=True))
    for (start, first), (end, last) in pairwise(points):
        if start <= flops <= end:
            part = (flops - start) / (end - start)
            return math.exp(math.log(first) * (1 - part) + math.log(last) * part)
    return None


def against(baseline: Curve, curve: Curve, *, other_flops: float = 0.0) -> Comparison:
    """A run against the baseline's end.

    Args:
        baseline: what is to be matched.
        curve: of the run.
        other_flops: spent for the run before it, as by the search for its start.
    """
    match = flops_to_match(curve, baseline.perplexity[-1])
    if match.flops is not None:
        match = Match(match.flops + other_flops, match.is_bound)
    ratio = None if match.flops is None else baseline.flops[-1] / match.flops
    return Comparison(curve.name, curve.flops[-1], curve.perplexity[-1], match, ratio)


def compare(
    runs: Sequence[Path], *, baseline: Path | None = None, out: Path | None = None
) -> list[Comparison]:
    """Print a table of runs; with `out`, also write `comparison.json` and `comparison.png` there.

    Args:
        runs: run directories of `evo pretrain`.
        baseline: whose last perplexity is to be matched; by default the first run.
        out: a directory.

    Raises:
        UserError: a directory that is no run, or runs that were validated on different text.
    """
    if not runs:
        raise UserError("name at least one run directory of `evo pretrain`")
    if baseline is None:
        baseline = runs[0]
    elif Path(baseline) not in map(Path, runs):
        runs = [baseline, *runs]
    _check_comparable(runs)
    names = _names(runs)
    curves = [read_curve(Path(run), name) for run, name in zip(runs, names, strict=True)]
    reference = curves[[Path(run) for run in runs].index(Path(baseline))]
    found = [against(reference, curve) for curve in curves]
    Console(highlight=False).print(table(reference, found))
    if out is not None:
        from training.picture import draw_curves

        draw_curves(curves, Path(out) / "comparison.png", target=reference)
        with atomic_file(Path(out) / "comparison.json") as temporary:
            temporary.write_text(json.dumps(_described(reference, found), indent=2) + "\n")
    return found


def _check_comparable(runs: Sequence[Path]) -> None:
    told: dict[Any, Path] = {}
    for run in runs:
        if not (Path(run) / SETTINGS).is_file():
            raise UserError(f"{run} is no pretraining run: it has no {SETTINGS}")
        settings = yaml.safe_load((Path(run) / SETTINGS).read_text())
        key = (settings.get("validation_hash"), settings.get("validation_tokens"))
        told.setdefault(key, Path(run))
    if len(told) > 1:
        first, second = list(told.values())[:2]
        raise UserError(
            f"{first} and {second} were validated on different text: compare runs with "
            "the same --validation-text and --validation-tokens"
        )


def _names(runs: Sequence[Path]) -> list[str]:
    """The directories' names, or their whole paths where two are the same."""
    short = [Path(run).name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def table(baseline: Curve, comparisons: Sequence[Comparison]) -> Table:
    """The comparison as a table for the terminal.

    Args:
        baseline: whose last perplexity is to be matched.
        comparisons: a row each.
    """
    shown = Table(
        title=f"FLOPs to match {baseline.name} (perplexity {baseline.perplexity[-1]:.2f})"
    )
    shown.add_column("run")
    for heading in ("FLOPs", "perplexity", "FLOPs to match", "ratio"):
        shown.add_column(heading, justify="right")
    for row in comparisons:
        match = "–" if row.match.flops is None else f"{row.match.flops:.3g}"
        if row.match.is_bound:
            match = f"≤ {match}"
        shown.add_row(row.run, f"{row.flops:.3g}", f"{row.perplexity:.2f}", match, row.ratio_text)
    return shown


def _described(baseline: Curve, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "baseline": baseline.name,
        "target_perplexity": baseline.perplexity[-1],
        "baseline_flops": baseline.flops[-1],
        "runs": [
            {
                "run": row.run,
                "flops": row.flops,
                "perplexity": row.perplexity,
                "flops_to_match": row.match.flops,
                "ratio": row.ratio,
                "ratio_is_lower_bound": row.match.is_bound,
            }
            for row in comparisons
        ],
    }
