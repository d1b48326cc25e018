"""The part of a report that is about the train-offs of a run's bins."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp
from pathlib import Path

from markupsafe import Markup

from dashboards.axes import LARGEST_NLL, number
from dashboards.html import UNKNOWN, code, element, identifier, picture, table
from dashboards.selection_picture import draw_selection
from training.selection.config import default_out
from training.selection.summary_file import FinalistSummary, TrainOffSummary, read_train_off


def selection_section(run: Path, bins: list[str], out: Path) -> Iterator[Markup]:
    """Show the train-offs that have ended: finalists, rounds, and by what the winner was chosen.

    Args:
        run: run directory of `evo search`.
        bins: its bins.
        out: the directory for the pictures.

    Raises:
        UserError: a summary is damaged, or a picture cannot be written.
    """
    for bin in bins:
        summary = read_train_off(default_out(run, bin))
        if summary is not None:
            yield from _train_off(summary, out / f"selection-{bin}.png")


def _train_off(summary: TrainOffSummary, path: Path) -> Iterator[Markup]:
    winner, besides = summary["winner"], summary["flops"] - summary["winner_flops"]
    yield element("h2", f"Train-off of {summary['bin']}")
    yield element(
        "p",
        f"The winner of {len(summary['finalists'])} finalists, ",
        identifier(winner["candidate"]),
        f", was chosen by {summary['chosen_by']}, on ",
        code(summary["validation_text"]),
        f". The others' training took {besides / summary['planned_flops']:.0%} of the planned "
        "run's FLOPs; the winner's is the beginning of that.",
    )
    draw_selection(summary, path)
    yield picture(
        path,
        "Validation perplexity of each finalist in training. A cross ends the line of one that was "
        "left behind, a star that of the winner.",
    )
    rounds = [f"{each['tokens']:,} tokens" for each in summary["rounds"]]
    headings = ("finalist", "search", "layers", "parameters", "before", *rounds, "")
    rows = [_row(one, len(rounds)) for one in summary["finalists"]]
    yield table(headings, rows, numbers=headings[2:-1])
    yield element("p", "To go on with the winner: ", code(summary["continue"]), class_="note")


def _row(one: FinalistSummary, rounds: int) -> list[object]:
    nll = [one["nll_before"], *one["nll"], *[None] * (rounds - len(one["nll"]))]
    return [
        identifier(one["candidate"]),
        one["search"],
        one["layers"],
        f"{one['params']:,}",
        *(UNKNOWN if each is None else number(exp(min(each, LARGEST_NLL))) for each in nll),
        one["reason"] or "",
    ]
