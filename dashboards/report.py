"""`evo report`: one self-contained HTML page of a run's searches, and its pictures as PNG files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dashboards.front_picture import front_picture
from dashboards.history_statistics import has_nll, winner
from dashboards.html import UNKNOWN, code, element, identifier, page, picture, table
from dashboards.pictures import search_curves
from dashboards.search_run import RunRecord, SearchRecord, read_run
from dashboards.search_section import search_section
from dashboards.selection_section import selection_section
from evo.storage.files import write_whole

PAGE = "index.html"


def report(run: Path, out: Path) -> Path:
    """Write the page of a run, finished or not, and its pictures beside it.

    A report that is there already is replaced, file by file.

    Args:
        run: directory of `evo search`.
        out: directory for `index.html`, `curves.png`, of several bins `front.png`, a picture per
            train-off, and two per search.

    Returns:
        The page.

    Raises:
        UserError: `run` is no run of `evo search`, or is damaged; `out` cannot be written.
    """
    record = read_run(run)
    body = [*_header(record), *_overview(record, out)]
    body.extend(selection_section(run, [bin.strip() for bin in record.settings["bins"]], out))
    for search in record.searches:
        body.extend(search_section(record, search, out))
    body.append(_settings(record))
    write_whole(out / PAGE, page(f"evo: {_run_name(record)}", body))
    return out / PAGE


def _run_name(run: RunRecord) -> str:
    return run.path.resolve().name


def _header(run: RunRecord) -> Iterator[Markup]:
    yield element("h1", f"Search of subnets: {_run_name(run)}")
    yield element("p", _status(run), class_="status")
    settings = run.settings
    rows: list[tuple[str, object]] = [
        ("Teacher", code(settings["teacher"])),
        ("Fitness text", _fitness_text(run)),
        ("Order", _order(run)),
        ("Searches", f"{' and '.join(settings['spaces'])}, each in {', '.join(settings['bins'])}"),
        ("Algorithm", _algorithm(settings)),
        ("Seed", settings["seed"]),
    ]
    if run.dimensions is not None:
        d = run.dimensions
        size = (
            f"{d.layers} layers × {d.channels:,} channels; in each layer {d.groups:,} query groups "
            f"and {d.neurons:,} MLP neurons"
        )
        rows.insert(1, ("The teacher's shape", size))
    yield table(("", ""), rows)


def _status(run: RunRecord) -> str:
    if run.summary is not None:
        return "All searches have ended."
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    return f"The run goes on, or was stopped before its end; this is how it stood at {now}."


def _fitness_text(run: RunRecord) -> Markup:
    settings = run.settings
    parts = [f", content {settings['text_hash']}"]
    if settings["text_note"]:
        parts.append(f", {settings['text_note']}")
    if run.summary is not None:
        count, length = run.summary["text"]["blocks"]
        parts.append(f", {count:,} sequences of {length:,} tokens")
    else:
        parts.append(f", sequences of at most {settings['sequence_length']:,} tokens")
    return element("span", code(" + ".join(settings["text"])), *parts)


def _order(run: RunRecord) -> Markup:
    settings = run.settings
    kind = settings["order"]
    if kind != "activation":
        return element("span", f"{kind}; no text is read for it")
    parts: list[object] = ["activation, on the fitness text"]
    if settings["order_text"] is not None:
        source = code(settings["order_text"])
        parts = ["activation, on ", source, f", content {settings['order_text_hash']}"]
    if run.summary is not None:
        parts += [", ", _power_of_ten(run.summary["order_flops"]), " FLOPs"]
    return element("span", *parts)


def _algorithm(settings: dict[str, Any]) -> str:
    text = (
        f"{settings['algorithm']}: a population of {settings['population']:,}, and "
        f"{settings['generations']:,} generations after the first"
    )
    if settings["patience"] is not None:
        text += f", or until {settings['patience']} in a row find nothing better"
    if settings["algorithm"] == "evolution":
        text += (
            f"; {settings['elites']} elites, {settings['mutation_rate']:.0%} mutation, "
            f"{settings['crossover_rate']:.0%} crossover, the rest samples"
        )
    if settings.get("niches"):
        text += "; elites of each number of layers"
    if (settings.get("proposals") or 1) > 1:
        text += (
            f"; a model of the scores chooses among {settings['proposals']} proposals for a place"
        )
    if settings.get("gate_text"):
        rest = settings["gate_text"] == "rest"
        source = "what the fitness text leaves" if rest else settings["gate_text"]
        text += f"; in fine spaces half of a generation swaps units by gradients on {source}"
    return text


def _overview(run: RunRecord, out: Path) -> Iterator[Markup]:
    yield element("h2", "Winners")
    headings = ("search", "winner", "parameters", "NLL", "perplexity", "evaluations",
                "tokens scored", "FLOPs", "worker seconds", "ended")  # fmt: skip
    rows = [_overview_row(search) for search in run.searches]
    yield table(headings, rows, numbers=headings[2:9])
    yield element(
        "p",
        f"Each winner was chosen by its {run.settings['fitness']} before training; a train-off, if "
        "there is one below, chooses by training. "
        "NLL is the mean negative log-likelihood on the fitness text, in nats per token, before "
        "any training; perplexity is its exponential. FLOPs are those of all forward passes of "
        "the search; they are counted when the run ends. Under a search's name: its winner's "
        "checkpoint, in the run directory.",
        class_="note",
    )
    histories = {
        search.name: search.history for search in run.searches if winner(search.history) is not None
    }
    with_nll = {name: history for name, history in histories.items() if has_nll(history)}
    if len(with_nll) > 1:
        search_curves(with_nll, out / "curves.png")
        yield picture(out / "curves.png", "Best perplexity so far, against evaluations.")
    if len({name.partition("@")[2] for name in histories}) > 1:
        front_picture(histories, out / "front.png")
        yield picture(out / "front.png", "Cost against fitness of all candidates that were scored "
                                         "in full, and those that nothing is better and no "
                                         "dearer than.")  # fmt: skip


def _overview_row(search: SearchRecord) -> list[object]:
    best, history = winner(search.history), search.history
    flops = _power_of_ten(search.summary["flops"]) if search.summary else UNKNOWN
    nll = ppl = UNKNOWN
    if best is not None and has_nll(history):
        nll, ppl = f"{best['nll']:.4f}", f"{best['perplexity']:,.2f}"
    return [
        _overview_name(search),
        identifier(best["candidate"]) if best is not None else UNKNOWN,
        f"{best['params']:,}" if best is not None else UNKNOWN,
        nll,
        ppl,
        f"{len(history):,}",
        f"{history['tokens'].sum():,}",
        flops,
        f"{history['seconds'].sum():,.1f}",
        search.ended or "not yet",
    ]


def _overview_name(search: SearchRecord) -> Markup:
    link = element("a", search.name, href=f"#{search.name}")
    directory = search.directory / "winner"
    if not directory.is_dir():
        return link
    path = "/".join(directory.parts[-3:])
    return element("span", link, element("code", path, class_="under"))


def _settings(run: RunRecord) -> Markup:
    rows = [(name, code(_plain(value))) for name, value in run.settings.items()]
    return element("details", element("summary", "All settings"), table(("", ""), rows))


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _power_of_ten(value: float) -> Markup:
    if value < 1e6:
        return Markup(f"{value:,.0f}")
    mantissa, exponent = f"{value:.2e}".split("e")
    return Markup(f"{mantissa} × 10<sup>{int(exponent)}</sup>")
