"""What `benchmarks.search.rungs` found: its figures, tables and picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.machine import sentence
from benchmarks.search.agreement import AGREED, TIMES
from evo.search.history.row import Row
from evo.storage.files import atomic_file

Trace = Sequence[Sequence[float]]
"""After each generation: evaluations, scored tokens, best fitness."""

VERDICT = "## What it says\n"
NEAR = 1.01
"""Almost there: within 1% in NLL."""

FULL_COLOUR, DEFAULT_COLOUR = "#4269d0", "#D55E00"


def trace(rows: Iterable[Row]) -> list[tuple[int, int, float]]:
    """The trace of a history, whose rows are in the order of generations."""
    result = []
    evaluations, tokens, best = 0, 0, float("inf")
    for _, generation in groupby(rows, key=lambda row: row.generation):
        for row in generation:
            evaluations, tokens = evaluations + 1, tokens + row.tokens
            if row.status == "full":
                best = min(best, row.fitness)
        result.append((evaluations, tokens, best))
    return result


def reached(trace: Trace, target: float) -> int | None:
    """Scored tokens at the end of the first generation with a best of at most `target`."""
    return next((int(tokens) for _, tokens, best in trace if best <= target), None)


def versus(one: dict[str, Any], full: dict[str, Any]) -> dict[str, Any]:
    """A search with rungs against the one that scores in full and differs in nothing else.

    Returns:
        `equal`: how much worse full scoring's best was at the end of the generation by which it had
        most nearly spent the same tokens. Shares
        of the tokens that full scoring spent in all: `used` in all,
        `reached` its final best, `near` it (within 1%), each None where it never did; `full_near`,
        when full scoring came near; and relative differences in NLL: `worse` on the fitness text,
        `fresh` on other text.
    """
    _, spent, best = full["trace"][-1]

    def share(record: dict[str, Any], target: float) -> float | None:
        tokens = reached(record["trace"], target)
        return None if tokens is None else tokens / spent

    _, tokens, own = one["trace"][-1]
    _, _, then = min(full["trace"], key=lambda point: abs(point[1] - tokens))
    return {
        "equal": then / own - 1,
        "used": tokens / spent,
        "reached": share(one, best),
        "full_reached": share(full, best),
        "near": share(one, NEAR * best),
        "full_near": share(full, NEAR * best),
        "worse": own / best - 1,
        "fresh": one["fresh_nll"] / full["fresh_nll"] - 1,
    }


def key(record: dict[str, Any]) -> tuple[Any, ...]:
    """What searches of one match have in common; the embedded teacher's come first."""
    return record["teacher"], record["sequences"], record["space"], record["seed"]


def pairs(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Every search with rungs, with its figures against full scoring."""
    fulls = {key(one): one for one in result["records"] if one["rungs"] == "full"}
    return [
        one | versus(one, fulls[key(one)]) | {"full": fulls[key(one)]}
        for one in sorted(result["records"], key=key)
        if one["rungs"] != "full"
    ]


def markdown(result: dict[str, Any], old: Path) -> str:
    """The page; what it says in words is kept from the page that is there."""
    verdict = old.read_text().partition(VERDICT)[2] if old.is_file() else ""
    found = pairs(result)
    default = [one for one in found if one["rungs"] == "default"]
    budgets = [one for one in found if one["rungs"].startswith("default")]
    compared = {key(one) for one in found if not one["rungs"].startswith("default")}
    sections = [
        "# Rungs",
        _setting(result),
        "![Best fitness against scored tokens](rungs.png)",
        "## How much text is scoring in full?",
        f"Kendall's tau between the ranking of random candidates on so many sequences and that on "
        f"{TIMES} times as many, mean over the disjoint stretches of the text. Scoring in full is "
        f"the fewest from which on the median over a teacher's spaces is at least {AGREED}: "
        + ", ".join(
            f"{count} sequences of {result['length']} tokens for the {teacher} teacher"
            for teacher, count in result["sequences"].items()
        )
        + ".",
        _curves(result),
        "## The default against full scoring",
        "Shares are of the tokens that full scoring spent in all. *Reached*: when the search had "
        "full scoring's final best (or better), counted to the end of a generation. *Within 1%*: "
        "when it had 1.01 times that NLL, and when full scoring itself had. *Worse*: the NLL of "
        f"the best after {result['evaluations']} evaluations against full scoring's final best, on "
        "the fitness text; beside it that of full scoring's best when it had spent about as many, "
        "against the rungs' best. *On other text*: of the two final bests, on "
        f"{TIMES - 1} times as much text that neither search saw.",
        _table(
            default,
            {
                "teacher": lambda one: one["teacher"],
                "space": lambda one: one["space"],
                "sequences": lambda one: str(one["sequences"]),
                "seed": lambda one: str(one["seed"]),
                "full: tokens": lambda one: f"{one['full']['trace'][-1][1]:,}",
                "final best": lambda one: f"{one['full']['trace'][-1][2]:.4f}",
                "found at": lambda one: f"{one['full_reached']:.0%}",
                "stages": lambda one: " ".join(map(str, one["stages"])),
                "rungs: tokens": lambda one: f"{one['used']:.1%}",
                "reached at": _reached,
                "within 1% at (full)": _near,
                "worse by": lambda one: f"{one['worse']:+.2%}",
                "full at as many tokens": lambda one: f"{one['equal']:+.2%}",
                "on other text": lambda one: f"{one['fresh']:+.2%}",
            },
        ),
        "## Medians over searches",
        f"*default* is {result['evaluations']} evaluations, as full scoring's; *a tenth* is a "
        "search of as many generations as cost a tenth of full scoring's tokens. A search that "
        "never reached full scoring's best counts as more than any share; how many "
        "did is beside it.",
        _medians(budgets, ("teacher", "sequences", "rungs")),
        "## Other settings of rungs",
        _medians([one for one in found if key(one) in compared], ("sequences", "rungs")),
    ]
    return "\n\n".join([*sections, VERDICT + "\n" + verdict.strip()]).rstrip() + "\n"


def _setting(result: dict[str, Any]) -> str:
    return (
        f"Whole searches of {result['evaluations']} evaluations (population "
        f"{result['population']}), bin {result['bin']}, activation order, text {result['text']}; "
        "the same seed, so the same first generation, for all settings of rungs. "
        + sentence(result["machine"])
    )


def _curves(result: dict[str, Any]) -> str:
    curves = {f"{one['teacher']}, {one['space']}": one["tau"] for one in result["curves"]}
    sizes = next(iter(curves.values()))
    return _table(
        list(sizes),
        {
            "sequences": str,
            "tokens": lambda size: f"{int(size) * result['length']:,}",
            **{name: lambda size, tau=tau: f"{tau[size]:.3f}" for name, tau in curves.items()},
        },
    )


def _reached(one: dict[str, Any]) -> str:
    return f"not by {one['used']:.1%}" if one["reached"] is None else f"{one['reached']:.1%}"


def _near(one: dict[str, Any]) -> str:
    near = "never" if one["near"] is None else f"{one['near']:.1%}"
    return f"{near} ({one['full_near']:.0%})"


def _medians(found: list[dict[str, Any]], by: tuple[str, ...]) -> str:
    def of(one: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(one[name] for name in by)

    groups = [list(group) for _, group in groupby(sorted(found, key=of), key=of)]
    return _table(
        groups,
        {
            **{name: lambda group, name=name: str(group[0][name]) for name in by},
            "stages": lambda group: " ".join(map(str, group[0]["stages"])),
            "survivors": lambda group: f"{group[0]['survivors']:g}",
            "confidence": lambda group: f"{group[0]['confidence']:g}",
            "searches": lambda group: str(len(group)),
            "evaluations": lambda group: f"{median(one['trace'][-1][0] for one in group):.0f}",
            "tokens": lambda group: f"{median(one['used'] for one in group):.1%}",
            "reached full's best at": lambda group: _middle(group, "reached"),
            "of them": lambda group: f"{sum(one['reached'] is not None for one in group)}",
            "within 1% at": lambda group: _middle(group, "near"),
            "full within 1% at": lambda group: _middle(group, "full_near"),
            "worse by": lambda group: f"{median(one['worse'] for one in group):+.2%}",
            "full at as many tokens": lambda group: f"{median(one['equal'] for one in group):+.2%}",
            "at worst": lambda group: f"{max(one['worse'] for one in group):+.2%}",
            "on other text": lambda group: f"{median(one['fresh'] for one in group):+.2%}",
        },
    )


def _middle(group: list[dict[str, Any]], name: str) -> str:
    value = median(float("inf") if one[name] is None else one[name] for one in group)
    return "not reached" if value == float("inf") else f"{value:.1%}"


def _table(rows: Sequence[Any], columns: dict[str, Callable[[Any], str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    lines += ["| " + " | ".join(cell(row) for cell in columns.values()) + " |" for row in rows]
    return "\n".join(lines)


def draw(result: dict[str, Any], path: Path) -> None:
    """Best fitness against scored tokens: a panel per teacher, space and text, lines by seed."""
    panels: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in sorted(result["records"], key=key):
        if one["rungs"] in ("full", "default"):
            panels.setdefault(key(one)[:3], []).append(one)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for index, ((teacher, sequences, space), records) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for colour, name in ((FULL_COLOUR, "full"), (DEFAULT_COLOUR, "default")):
            chosen = [one for one in records if one["rungs"] == name]
            label = "every candidate in full" if name == "full" else "rungs (the default)"
            for one in chosen:
                _, tokens, best = zip(*one["trace"], strict=True)
                axes.plot(tokens, best, color=colour, linewidth=1.2, alpha=0.85, label=label)
                axes.plot(tokens[-1], best[-1], "o", color=colour, markersize=4)
                label = None
        axes.set_xscale("log")
        axes.set_title(f"{teacher}, {space}, {sequences} sequences", fontsize=9)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        if index % columns == 0:
            axes.set_ylabel("best NLL, nats per token", fontsize=8)
        if index + columns >= len(panels):  # nothing below
            axes.set_xlabel("scored tokens", fontsize=8)
        if index == 0:
            axes.legend(frameon=False, fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
