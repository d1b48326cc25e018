"""How a train-off should halve its finalists: played with the trainings of `looks_ahead`.

    python -m benchmarks.ends_best.halving

Each of `DRAWS` train-offs draws one network of each of some depths, and halves them by what they
lost after so many steps, as the product does, with the losses as they are and extrapolated from the
second round on. Writes halving.md beside this file; nothing is trained.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ends_best.looks_ahead import STEPS
from training.selection.rounds import Score, survivors

HERE = Path(__file__).parent
DRAWS = 1000
LEAST = 20
"""Cells of fewer networks are left out: they are not finished."""

TRAIN_OFFS = (
    (8, (5, 10, 20)), (8, (10, 20, 50)), (8, (20, 50, 100)), (8, (50, 100, 200)), (4, (10, 20)),
    (4, (20, 50)), (4, (50, 100)), (4, (100, 200)),
)  # fmt: skip
"""Finalists, and steps at the ends of the rounds."""


def winner(rows: list[dict[str, Any]], ends: tuple[int, ...], *, extrapolated: bool) -> int:
    """Which of some networks a train-off chooses."""
    standing = [str(place) for place in range(len(rows))]
    before: dict[str, Score] = {}
    for end in ends:
        scores = {name: Score(rows[int(name)]["after"][str(end)]) for name in standing}
        standing = survivors(scores, before if extrapolated else {})
        before = scores
    return int(standing[0])


def cost(finalists: int, ends: tuple[int, ...]) -> float:
    """Steps of those that lose, as a share of the steps of the whole run."""
    total, before, standing = 0, 0, finalists
    for end in ends:
        total += standing * (end - before)
        before, standing = end, (standing + 1) // 2
    return (total - ends[-1]) / STEPS


def regrets(
    rows: list[dict[str, Any]], finalists: int, ends: tuple[int, ...], *, extrapolated: bool
) -> np.ndarray:
    """By how much more perplexity the chosen network ends than the best that took part."""
    rng = np.random.default_rng(0)
    by_depth: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_depth[row["layers"]].append(row)
    found = []
    for _ in range(DRAWS):
        depths = rng.permutation(sorted(by_depth))[:finalists]
        drawn = [by_depth[depth][rng.integers(len(by_depth[depth]))] for depth in depths]
        nll = [row["after"][str(STEPS)] for row in drawn]
        found.append(np.exp(nll[winner(drawn, ends, extrapolated=extrapolated)] - min(nll)) - 1)
    return np.array(found)


def markdown(cells: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each way to halve; for each cell the mean and the 90th percentile."""
    lines = [
        "# Halving",
        "",
        f"By how much more perplexity the network that a train-off chooses ends, after {STEPS} "
        f"steps, than the best of its finalists: mean and 90th percentile of {DRAWS:,} train-offs "
        "played with the trainings of [looks_ahead](looks_ahead.md), each among one network of "
        "each of some depths. By the losses as they are, and with half of the last fall added from "
        "the second round on, as `evo select` does. *Cost*: steps of those that lose, as a share "
        "of the whole run's.",
        "",
        "`python -m benchmarks.ends_best.halving`",
        "",
        "| finalists | rounds end after | cost | "
        + " | ".join(f"{cell}: as they are | extrapolated" for cell in cells)
        + " |",
        "| --- | --- | --- |" + " --- | --- |" * len(cells),
    ]
    for finalists, ends in TRAIN_OFFS:
        shown = []
        for rows in cells.values():
            for extrapolated in (False, True):
                found = regrets(rows, finalists, ends, extrapolated=extrapolated)
                shown.append(f"{found.mean():.1%}, {np.quantile(found, 0.9):.1%}")
        lines.append(
            f"| {finalists} | {', '.join(map(str, ends))} steps | {cost(finalists, ends):.0%} | "
            + " | ".join(shown)
            + " |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Play them."""
    cells: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in json.loads((HERE / "looks_ahead.json").read_text())["rows"]:
        cells[f"{row['teacher']}, {row['bin']}, seed {row['seed']}"].append(row)
    whole = {name: rows for name, rows in cells.items() if len(rows) >= LEAST}
    (HERE / "halving.md").write_text(markdown(whole))


if __name__ == "__main__":
    main()
