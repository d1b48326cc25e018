"""What the quickstart came to: its summary, its table and its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from dashboards.pictures import search_curves
from dashboards.training_curves import draw_curves
from evo.commands.quickstart.settings import ARMS, BINS, TRAIN_OFFS, VALIDATION_TEXT
from training.comparison.curves import Curve, against, read_curve
from training.comparison.flops_before import flops_before


def summary_of(
    found: Mapping[str, Any], selections: Mapping[str, dict[str, Any]], runs: Mapping[str, Path]
) -> dict[str, Any]:
    """The content of the quickstart's `summary.json`.

    Each arm has its end, and by which fraction of its FLOPs it reaches that of the better one of
    the two runs from random weights: alone, and with the search and the train-off counted.

    Args:
        found: the search's summary.
        selections: the summaries of the train-offs, by the arms that they chose for.
        runs: the run directory of each arm.
    """
    small = next(part for part in found["searches"] if part["bin"] == BINS[0])
    curves = {name: read_curve(run, ARMS[name].label) for name, run in runs.items()}
    baseline = min(
        (name for name, arm in ARMS.items() if arm.init == "random"),
        key=lambda name: curves[name].perplexity[-1],
    )
    before = {name: flops_before(run) for name, run in runs.items()}
    arms = {}
    for name, curve in curves.items():
        shape = selections.get(name, selections["winner"])["winner"]
        alone, whole = (
            against(curves[baseline], curve, other_flops=other)
            for other in (0.0, before[name].total)
        )
        arms[name] = {
            "run": str(runs[name]),
            "layers": shape["layers"],
            "parameters": shape["params"],
            "flops": curve.flops[-1],
            "perplexity_at_start": curve.perplexity[0],
            "perplexity": curve.perplexity[-1],
            "flops_to_match": _ratio(alone.ratio_text, name, baseline),
            "flops_to_match_with_search": _ratio(whole.ratio_text, name, baseline),
        }
    return {
        "bin": small["bin"],
        "tokens": selections["winner"]["planned_tokens"],
        "search_flops": before["winner"].search,
        "train_off_flops": before["winner"].train_off,
        "chosen_by": selections["winner"]["chosen_by"],
        "winner": selections["winner"]["winner"],
        "baseline": baseline,
        "arms": arms,
        "searches": found["searches"],
    }


def _ratio(text: str, name: str, baseline: str) -> str:
    return "1.00x" if name == baseline else text


def table(summary: Mapping[str, Any]) -> Table:
    """A row for each arm."""
    shown = Table(
        title=f"{summary['bin']} of the teacher's parameters, trained on {summary['tokens']:,} "
        f"tokens; the search took {summary['search_flops']:.2e} FLOPs, the train-off "
        f"{summary['train_off_flops']:.2e}"
    )
    shown.add_column("start")
    for column in (
        "layers",
        "parameters",
        "perplexity\nbefore",
        "perplexity\nafter",
        "FLOPs",
        "fewer FLOPs to\nmatch random",
        "search and train-\noff included",
    ):
        shown.add_column(column, justify="right")
    for name, row in summary["arms"].items():
        shown.add_row(
            ARMS[name].label,
            str(row["layers"]),
            f"{row['parameters']:,}",
            f"{row['perplexity_at_start']:.1f}",
            f"{row['perplexity']:.2f}",
            f"{row['flops']:.2e}",
            row["flops_to_match"],
            row["flops_to_match_with_search"],
        )
    shown.caption = (
        f"Perplexity: on {VALIDATION_TEXT}. The winner was chosen by {summary['chosen_by']}. "
        f"Random: {ARMS[summary['baseline']].label}, whose own train-off is not counted. ≥: ahead "
        "at the first validation already."
    )
    return shown


def draw(out: Path, found: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Draw `search.png` and `training.png`."""
    histories = {
        part["name"]: pd.read_parquet(
            out / "search" / "searches" / part["name"] / "history.parquet"
        )
        for part in found["searches"]
    }
    search_curves(histories, out / "search.png")
    curves: dict[str, Curve] = {
        name: read_curve(Path(row["run"]), ARMS[name].label)
        for name, row in summary["arms"].items()
    }
    draw_curves(list(curves.values()), out / "training.png", target=curves[summary["baseline"]])


def closing(out: Path, summary: Mapping[str, Any]) -> str:
    """Where the pictures are, and what to do next."""
    runs = " ".join(row["run"] for row in summary["arms"].values())
    pictures = [
        str(out / picture)
        for picture in ("search.png", f"{TRAIN_OFFS['winner']}/selection.png", "training.png")
    ]
    return "\n".join(
        [
            f"Pictures: {', '.join(pictures)}",
            "Next (`. .venv/bin/activate` puts evo on the path):",
            f"  evo report {out / 'search'}",
            f"  evo compare {runs}",
            f"  evo eval {out / 'distilled' / 'model'} --text {VALIDATION_TEXT}",
            "  evo import EleutherAI/pythia-410m --out teachers/pythia-410m",
            "  evo search --teacher teachers/pythia-410m --text hf:Salesforce/wikitext:"
            "wikitext-103-raw-v1:validation --bins pythia-160m --out runs/first",
        ]
    )
