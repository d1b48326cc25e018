"""The part of a report that is about one search."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from dashboards.history_statistics import (
    best_of_layers,
    failures,
    has_nll,
    operator_statistics,
    winner,
)
from dashboards.html import UNKNOWN, code, element, identifier, picture, table
from dashboards.pictures import population_shapes, search_curves
from dashboards.search_run import RunRecord, SearchRecord
from evo.genome.subnet import Subnet
from evo.search.history.row import perplexity


def search_section(run: RunRecord, search: SearchRecord, out: Path) -> Iterator[Markup]:
    """Show how a search went: its winner, curve, shapes, operators and failures.

    Args:
        run: the run that it belongs to.
        search: a search of that run.
        out: the directory for its pictures.

    Raises:
        UserError: a picture cannot be written.
    """
    yield element("h2", search.name, id=search.name)
    yield element("p", _progress(run, search), class_="status")
    if search.history.empty:
        return
    best = winner(search.history)
    if best is not None and search.winner is not None:
        yield element("h3", "Winner")
        yield _winner(run, search, best, search.winner)
        yield element("h3", "Best of each number of layers")
        yield _niches(search.history)
    if search.winner is not None and has_nll(search.history):
        curve, shapes = out / f"curve-{search.name}.png", out / f"shapes-{search.name}.png"
        search_curves({search.name: search.history}, curve)
        yield element("h3", "Fitness")
        yield picture(curve, "Perplexity of each candidate, of the best so far, and each "
                             "generation's median.")  # fmt: skip
        population_shapes(search.history, search.winner, shapes)
        yield element("h3", "Shapes")
        yield picture(shapes, "Each candidate's perplexity against its widths, averaged over its "
                              "layers, coloured by generation.")  # fmt: skip
    yield element("h3", "Operators")
    yield from _operators(search.history)
    yield element("h3", "Failures")
    yield _failures(search.history)


def _progress(run: RunRecord, search: SearchRecord) -> str:
    total = run.settings["generations"] + 1
    text = f"{search.generations:,} of {total:,} generations, {len(search.history):,} evaluations"
    if search.ended is not None:
        return f"Ended ({search.ended}) after {text}."
    return f"So far {text}." if search.generations else "No generation has ended yet."


def _winner(run: RunRecord, search: SearchRecord, best: pd.Series, subnet: Subnet) -> Markup:
    rows: list[tuple[str, object]] = [
        ("Candidate", _candidate(best)),
        ("Parameters", _parameters(search, best)),
        ("Perplexity", _perplexity_of_winner(search, best)),
        *_shape(subnet),
        ("Checkpoint", _checkpoint(run, search)),
    ]
    return table(("", ""), rows)


def _perplexity_of_winner(search: SearchRecord, best: pd.Series) -> str:
    """The perplexity is measured when the run ends, in a search by a proxy."""
    nll = best["nll"]
    if np.isnan(nll) and search.summary is not None and search.summary["nll"] is not None:
        nll = search.summary["nll"]
    return UNKNOWN if np.isnan(nll) else f"{perplexity(nll):,.2f} ({nll:.4f} nats per token)"


def _candidate(best: pd.Series) -> Markup:
    parts: list[object] = [
        identifier(best["candidate"]),
        f", by {best['operator']} in generation {best['generation']}",
    ]
    for index, parent in enumerate(best["parents"]):
        parts += [" and " if index else ", from ", identifier(parent)]
    return element("span", *parts)


def _parameters(search: SearchRecord, best: pd.Series) -> str:
    text = f"{best['params']:,}"
    if search.summary is not None:
        bin = f"the bin: {search.summary['low']:,} to {search.summary['high']:,}"
        if search.summary["cost"] != "parameters":
            bin = f"{best['cost']:,} {search.summary['cost']}; {bin}"
        text += f" ({bin})"
    return text


def _shape(subnet: Subnet) -> Iterator[tuple[str, str]]:
    """Describe the shape in words."""
    d, widths = subnet.dimensions, subnet.widths
    yield (
        "Shape",
        f"{widths.layers} of {d.layers} layers × {widths.channels:,} of {d.channels:,} channels",
    )
    dropped = np.flatnonzero(~subnet.layers).tolist()
    if dropped:
        yield "Dropped layers", f"{', '.join(map(str, dropped))}, counted from 0"
    yield "Query groups (heads)", _widths(widths.groups, d.groups)
    yield "MLP neurons", _widths(widths.neurons, d.neurons)


def _widths(widths: tuple[int, ...], most: int) -> str:
    if len(set(widths)) == 1:
        return f"{widths[0]:,} of {most:,} in each layer"
    return f"{', '.join(map(str, widths))} of {most:,}, layer by layer"


def _checkpoint(run: RunRecord, search: SearchRecord) -> Markup:
    directory = search.directory / "winner"
    if directory.is_dir():
        return code(directory.resolve())
    command = f"evo extract {run.path} --search {search.name} --out DIRECTORY"
    return element("span", "not written before the run ends; the best so far: ", code(command))


def _niches(history: pd.DataFrame) -> Markup:
    headings = ("layers", "scored on all of the text", "best", "parameters", "perplexity")
    rows = [
        (
            row["layers"],
            f"{row['candidates']:,}",
            identifier(row["candidate"]),
            f"{row['params']:,}",
            _perplexity(row["nll"]),
        )
        for row in best_of_layers(history).to_dict("records")
    ]
    return table(headings, rows, numbers=[name for name in headings if name != "best"])


def _operators(history: pd.DataFrame) -> Iterator[Markup]:
    headings = ("operator", "candidates", "screened out", "better than parents", "new bests",
                "median perplexity", "best perplexity")  # fmt: skip
    rows = [
        (
            row["operator"],
            f"{row['candidates']:,}",
            f"{row['screened']:,}",
            _share(row["better_than_parents"], row["with_parents"]),
            f"{row['new_bests']:,}",
            _perplexity(row["median_nll"]),
            _perplexity(row["best_nll"]),
        )
        for row in operator_statistics(history).to_dict("records")
    ]
    yield table(headings, rows, numbers=headings[1:])
    yield element(
        "p",
        "Screened out: dropped at a rung, after some of the text; perplexities are of candidates "
        "scored on all of it. Better than parents: than each of them, of the candidates that have "
        "any and did not fail. New bests: how often the best of a generation came from this "
        "operator and was better than all generations before; the first generation is not counted.",
        class_="note",
    )


def _failures(history: pd.DataFrame) -> Markup:
    found = failures(history)
    if found.empty:
        return element("p", "None.")
    rows = [
        (row["reason"], f"{row['candidates']:,}", identifier(row["example"]))
        for row in found.to_dict("records")
    ]
    return table(("reason", "candidates", "for example"), rows, numbers=("candidates",))


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.0%})" if whole else UNKNOWN


def _perplexity(nll: float) -> str:
    return UNKNOWN if np.isnan(nll) else f"{perplexity(nll):,.2f}"
