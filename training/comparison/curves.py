"""A run's validation perplexity over its FLOPs, and where it reaches another run's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from evo.errors import UserError
from evo.storage.records import reading
from evo.storage.run_directory import FILE as SETTINGS
from evo.storage.run_directory import read_settings
from training.logs import log


@dataclass(frozen=True)
class Curve:
    """A run's validations.

    Attributes:
        name: name of the run.
        flops: FLOPs spent up to each validation, from 0, rising.
        perplexity: perplexity at each validation.
        cached_teacher: whether the run was distilled from stored logits, whose FLOPs `flops` leaves
            out.
    """

    name: str
    flops: tuple[float, ...]
    perplexity: tuple[float, ...]
    cached_teacher: bool = False


@dataclass(frozen=True)
class Match:
    """Where a run reaches a perplexity.

    Attributes:
        flops: FLOPs spent by then; None: the run never reaches it.
        is_bound: whether the run was there before its first step; `flops`, those of its first
            validation after that, is then the most that it can have needed.
    """

    flops: float | None
    is_bound: bool = False


@dataclass(frozen=True)
class Comparison:
    """A run against the baseline.

    Attributes:
        match: where the run reaches the baseline's last perplexity.
        ratio: the baseline's FLOPs over those of the match; None: the run never gets there.
    """

    match: Match
    ratio: float | None

    @property
    def ratio_text(self) -> str:
        """The ratio for a table: `≥ 8.00x` where it is a bound."""
        if self.ratio is None:
            return "not reached"
        return f"{'≥ ' if self.match.is_bound else ''}{self.ratio:.2f}x"


def read_curve(run: Path, name: str | None = None) -> Curve:
    """The validations of a run of `evo pretrain`, finished or not.

    The run's name is by default that of its directory.

    Raises:
        UserError: the directory is no run, or has fewer than two validations.
    """
    if not (run / SETTINGS).is_file():
        raise UserError(f"{run} is no pretraining run: it has no {SETTINGS}")
    rows = log.rows(run)
    with reading(run / log.LOG):
        points = [
            (float(row["flops"]), float(row["validation_perplexity"]))
            for row in rows
            if math.isfinite(row.get("validation_perplexity", math.inf))
        ]
    if len(points) < 2:
        raise UserError(
            f"{run} has {len(points)} validations: pretrain with --validation-text, "
            "and compare when it has come to the second"
        )
    flops, perplexity = zip(*points, strict=True)
    with reading(run / log.LOG):
        if any(after <= before for before, after in pairwise(flops)):
            raise ValueError("the FLOPs of its validations do not rise")
    is_cached = read_settings(run).get("teacher_logits") is not None
    return Curve(name or run.name, flops, perplexity, is_cached)


def flops_to_match(curve: Curve, target: float) -> Match:
    """The FLOPs that a run takes to first reach a perplexity.

    Between two validations the logarithm of the perplexity is taken to fall linearly with FLOPs;
    curves bend the other way, so this is rather too many than too few.
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
    """A run's perplexity at this number of FLOPs, interpolated as in `flops_to_match`.

    Returns:
        None where the run ended before that.
    """
    points = list(zip(curve.flops, curve.perplexity, strict=True))
    for (start, first), (end, last) in pairwise(points):
        if start <= flops <= end:
            part = (flops - start) / (end - start)
            return math.exp(math.log(first) * (1 - part) + math.log(last) * part)
    return None


def against(
    baseline: Curve, curve: Curve, *, other_flops: float = 0.0, baseline_other_flops: float = 0.0
) -> Comparison:
    """A run against the baseline's end.

    Args:
        baseline: the baseline.
        curve: the run.
        other_flops: FLOPs that were spent for the run before it, as by the search for its start.
        baseline_other_flops: the same for the baseline.
    """
    match = flops_to_match(curve, baseline.perplexity[-1])
    if match.flops is None:
        return Comparison(match, None)
    spent = match.flops + other_flops
    ratio = (baseline.flops[-1] + baseline_other_flops) / spent
    return Comparison(Match(spent, match.is_bound), ratio)
