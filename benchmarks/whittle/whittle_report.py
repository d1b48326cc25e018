"""The tables and the picture of benchmarks/whittle/vs_whittle.py."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.machine import sentence
from benchmarks.whittle.whittle_abilities import PER_SPACE
from benchmarks.whittle.whittle_runs import BIN, CONTENDERS, MICRO_BATCH, Contender
from evo.genome import SPACES

TOLERANCE = 1e-4
"""Logits that differ by less are the same: float32, and products summed in another order."""


def of(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """All runs of a contender."""
    return [run for run in result["runs"] if run["name"] == name]


def reached(run: dict[str, Any], nll: float) -> tuple[int, float] | None:
    """After how many evaluations, and seconds from the start, a run was that good."""
    return next(((count, at) for count, at, best in run["curve"] if best <= nll), None)


def target(result: dict[str, Any]) -> float:
    """The best that whittle found, in any of its runs."""
    return min(run["nll"] for run in result["runs"] if run["name"].startswith("whittle"))


def median(values: list[float]) -> float:
    return statistics.median(values)


def search_row(result: dict[str, Any], contender: Contender) -> str:
    """A line of the first table: medians over seeds, and the best of each seed."""
    runs = of(result, contender.name)
    times = [reached(run, target(result)) for run in runs]
    hits = [time for time in times if time is not None]
    reach = "never" if not hits else f"{median([at for _, at in hits]):.1f}"
    after = "" if not hits else f"{median([count for count, _ in hits]):.0f}"
    if hits and len(hits) < len(runs):
        reach += f" ({len(hits)} of {len(runs)})"
    memory = {key: median([run["memory"][key] for run in runs]) for key in runs[0]["memory"]}
    fields = [
        contender.name,
        " ".join(f"{run['rescored']:.4f}" for run in runs),
        f"{np.exp(median([run['rescored'] for run in runs])):.2f}",
        f"{median([run['tokens'] for run in runs]) / 1e6:.2f}M",
        reach,
        after,
        f"{median([run['start'] for run in runs]):.1f}",
        f"{median([run['seconds_per_score'] for run in runs]):.3f}",
        f"{median([run['seconds_per_evaluation'] for run in runs]):.3f}",
        f"{median([run['seconds'] for run in runs]):.1f}",
        f"{memory['scorer']:.0f}",
        f"{memory['tree_pss']:.0f}",
    ]
    return f"| {' | '.join(fields)} |"


def search_table(result: dict[str, Any]) -> list[str]:
    return [
        "| | best NLL, each seed | perplexity (median) | targets scored | s to whittle's best "
        "| after evaluations | s to the first score | s per score | s per evaluation | s in all "
        "| MiB, scorer | MiB, all |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(search_row(result, contender) for contender in CONTENDERS),
    ]


def verdict(values: list[Any]) -> str:
    """How many differences are none, how large the others are, and how the rest fails."""
    numbers = [value for value in values if not isinstance(value, str)]
    failures = [value for value in values if isinstance(value, str)]
    right = sum(value < TOLERANCE for value in numbers)
    notes = [f"largest difference {max(numbers):.1e}"] if numbers else []
    if failures:
        notes.append(f"{len(failures)} fail: {failures[0]}")
    return f"{right} of {len(values)} right; {'; '.join(notes)}"


def ability_table(result: dict[str, Any]) -> list[str]:
    """A line for each space and question."""
    drawn = result["abilities"]["spaces"]
    lines = ["| space | | whittle | evo |", "| --- | --- | --- | --- |"]
    for space in SPACES:
        rows = [row for row in result["abilities"]["rows"] if row["space"] == space]
        running = [row for row in rows if row["in_place"] == "runs"]
        classes = [name for name, kind in drawn.items() if kind == space]
        named = ", ".join(f"`{name}`" for name in classes)
        lines.append(f"| {space} | draws from it | {named or 'no'} | `--spaces {space}` |")
        switched = f"{len(running)} of {len(rows)}"
        if len(running) < len(rows):
            failed = next(row["in_place"] for row in rows if row["in_place"] != "runs")
            switched += f" ({failed})"
        lines.append(f"| | runs it inside the teacher | {switched} | (extracts instead) |")
        if not running:
            continue
        ours = [row["evo"] for row in running]
        off = [row["counted"] / row["numel"] - 1 for row in running]
        for question, theirs, mine in (
            ("extracted = in place", "extracted", "extracted"),
            ("saved and loaded = in place", "saved", "saved"),
        ):
            answers = [row[theirs] for row in running], [one[mine] for one in ours]
            lines.append(f"| | {question} | {verdict(answers[0])} | {verdict(answers[1])} |")
        counts = [f"{min(o):+.1%} to {max(o):+.1%}" for o in (off, [o["count_off"] for o in ours])]
        lines.append(f"| | parameters counted, off by | {counts[0]} | {counts[1]} |")
        times = [median([o["seconds"] for o in some]) for some in (running, ours)]
        lines.append(
            "| | seconds a score (median of the subnets, each its fastest of 5) "
            f"| {times[0]:.3f} | {times[1]:.3f} |"
        )
    return lines


def feature_table(result: dict[str, Any]) -> list[str]:
    """Resume and parallel scoring."""
    lines, resume = result["abilities"]["lines"], result["resume"]
    theirs, ours = resume["whittle"], resume["evo"]
    one = of(result, "evo, activation order")[0]
    two = of(result, "evo, activation order, 2 workers")[0]
    rate = one["seconds_per_evaluation"] / two["seconds_per_evaluation"]
    same = "the same" if one["history"] == two["history"] else "another"
    kept = "the same" if ours["same_history"] else "another"
    return [
        "| | whittle | evo |",
        "| --- | --- | --- |",
        f"| killed with -9, run again | `--resume auto`: killed after {theirs['before_kill']} of "
        f"{theirs['asked']} evaluations, it made {theirs['after_restart']} after the restart, "
        f"{theirs['evaluated_again']} of them once more (`{lines['resumed_state']}`: what is "
        f"resumed is the model; `{lines['in_memory']}`: results are held in memory) | killed after "
        f"{ours['before_kill']} of {ours['asked']} evaluations, {ours['evaluated_again']} of these "
        f"made again, {kept} history as undisturbed |",
        f"| scores in parallel | no: `{lines['loop']}` is a loop over single candidates | 2 "
        f"workers: {rate:.2f} times the evaluations per second, {same} history |",
        f"| a bin | no: its command has one fixed space (`{lines['own_space']}`) and strata of all "
        "sizes for random search | `--bins`; every proposal lies in it |",
    ]


def summary(result: dict[str, Any]) -> list[str]:
    """What the figures say, and what they do not."""
    best = target(result)
    theirs, index, ranked = (
        of(result, name)
        for name in ("whittle, `morea`", "evo, index order", "evo, activation order")
    )
    installed = of(result, "evo as installed (rungs), 2 workers")[0]
    hit = reached(installed, best)
    whole = [run["memory"]["tree_pss"] for run in (theirs[0], index[0])]
    start = [median([run["start"] for run in runs]) for runs in (theirs, index)]
    score = [median([run["seconds_per_score"] for run in runs]) for runs in (theirs, index)]
    each = [median([run["seconds_per_evaluation"] for run in runs]) for runs in (theirs, index)]
    asked = median([run["proposals"] / run["evaluations"] for run in theirs])
    rows = [row for row in result["abilities"]["rows"] if row["space"] == "coarse-uniform"]
    same = [median([row["seconds"] for row in some]) for some in (rows, [r["evo"] for r in rows])]
    nll = [median([run["rescored"] for run in runs]) for runs in (theirs, index, ranked)]
    return [
        f"- **Fitness at equal evaluations.** whittle's evolution ends at {nll[0]:.4f} (median), "
        f"evo's in the same order at {nll[1]:.4f}: that difference is the algorithm, and chance. "
        f"With parts ranked by activation evo ends at {nll[2]:.4f}: that is the order, which "
        "whittle's search has not (`compute_importance` ranks, but its search spaces take the "
        f"first n as stored). whittle's best of all its runs is {best:.4f}.",
        "- **Time to whittle's best.** evo as installed, 2 workers: "
        + (f"{hit[1]:.1f} s from its start." if hit else "never.")
        + " A result of evo counts from the end of its generation, one of whittle at once.",
        f"- **Seconds per score** are {same[0]:.3f} (whittle, slicing weights in every forward, "
        f"full logits) and {same[1]:.3f} (evo, which extracts, the extraction included) for the "
        "same coarse-uniform subnets, at a vocabulary of 2,048 and these sizes; `scoring.md` has "
        f"larger ones. Each on what its own search proposed, {score[0]:.3f} and {score[1]:.3f}: "
        "these are other subnets, of other depths. Per evaluation, all "
        f"included, {each[0]:.3f} and {each[1]:.3f}; whittle's evolution draws {asked:.0f} "
        "proposals for each that lies in the bin.",
        f"- **Where whittle is better.** It starts scoring after {start[0]:.1f} s, evo after "
        f"{start[1]:.1f} s (Ray); it needs {whole[0]:.0f} MiB in all, evo with one worker "
        f"{whole[1]:.0f} MiB (Ray's own processes among them). By its source it has "
        "besides: Bayesian optimisation and NSGA-II (`whittle/search/baselines.py`), a whole "
        "Pareto front from one search (`search/multi_objective.py`), training of super-networks "
        "(`training_strategies/`), and unstructured pruning (`pruning/pruners/`).",
    ]


def markdown(result: dict[str, Any]) -> str:
    """The tables, and what they say."""
    low, high = result["bin"]
    rows, length = result["text"]["blocks"]
    versions = ", ".join(f"{k} {v}" for k, v in sorted(result["whittle_environment"].items()))
    checks = [run for run in result["runs"] if run["name"].startswith("whittle")]
    loads = [run["load_before"] for run in result["runs"]]
    off = max(abs(run["nll"] - run["rescored"]) for run in checks)
    teacher = max(abs(run["teacher_nll"] - result["teacher_nll"]) for run in checks)
    shipped = of(result, "whittle, `morea` as shipped")[0]
    rejected = of(result, "whittle, `morea`")
    asked = median([run["proposals"] for run in rejected])
    distinct = median([run["distinct"] for run in rejected])
    return "\n".join(
        [
            "# evo and whittle",
            "",
            f"The embedded teacher (3.1M parameters), coarse-uniform, {low:,} to {high:,} "
            f"parameters ({BIN}), {result['evaluations']} evaluations of {rows} x {length - 1} "
            f"targets of {result['text']['source']}, float32, micro-batches of {MICRO_BATCH}, one "
            "thread per scorer; each search a process of its own, one after another. Load average "
            f"before each: {min(loads):.1f} to {max(loads):.1f}; figures of time mean something "
            "only where that is below the number of cores.",
            "",
            *search_table(result),
            "",
            "![Best perplexity so far](vs_whittle.png)",
            "",
            "What is beyond three times the best perplexity is not in the picture. Best NLL is the "
            "best subnet's by evo's `summed_nll` of its extraction. *s per score* "
            "is the scoring of one candidate alone; *s per evaluation* all from the first score to "
            "the last, divided by their number. Times to whittle's best (the best of all its runs) "
            "are from the start of the process, imports and Ray included. Memory: the largest "
            "VmHWM of a process that scores, and the largest PSS of the tree of processes.",
            "",
            f"The two agree: the teacher's NLL differs by {teacher:.1e}, that of whittle's winners "
            f"by at most {off:.1e}, and whittle's own count of these winners' parameters is "
            + (
                "numel's."
                if all(run["params"] == run["numel"] for run in checks)
                else "not numel's."
            ),
            "",
            "whittle has no search in a bin. *As shipped* is its `multi_objective_search` as `whit"
            "tle search --search.search_strategy morea` calls it (NLL and parameters, its command's"
            f" space, all sizes); {shipped['in_bin']} of its {shipped['evaluations']} evaluations "
            "fell in the bin. The other rows are its strategies over its `SmallSearchSpace` with "
            "the thinnest driver: a proposal outside the bin costs no evaluation (`morea` and "
            "random search propose again, `nsga2` and `local_search`, which wait for an answer, "
            "are told a penalty), and the second objective is a constant, so that all goes into "
            "the NLL. That space begins at evo's least width instead of its own 64, with which its "
            "strategies fail on a teacher this narrow (the mid-point that they start from lies "
            "below it); litgpt 0.5.12 does not know the teacher's `rope_interleave: false`, which "
            f"is left out. `morea` made {asked:.0f} proposals in the median, and {distinct:.0f} of "
            f"its {rejected[0]['evaluations']} evaluations were distinct.",
            "",
            "## What each can do at all",
            "",
            f"{PER_SPACE} random subnets of each space and this bin, the fine ones of scattered "
            "layers, channels, heads and neurons, set in whittle's super-network; all logits "
            "against those in place, right where they "
            f"differ by less than {TOLERANCE:g}.",
            "",
            *ability_table(result),
            "",
            f"Why: `{result['abilities']['lines']['extract_lists']}` puts lists where litgpt's "
            f"`Config` has numbers; `{result['abilities']['lines']['extract_block']}` takes the "
            "first layers, not the kept ones, and "
            f"`{result['abilities']['lines']['count_block']}` counts them.",
            "",
            *feature_table(result),
            "",
            "## Verdict",
            "",
            *summary(result),
            "",
            sentence(result["machine"]) + f" whittle's environment: {versions}.",
            "",
        ]
    )


def picture(result: dict[str, Any], path: Path) -> None:
    """Best perplexity so far against evaluations and against seconds."""
    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    best = np.exp(min(run["curve"][-1][2] for run in result["runs"]))
    colours = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999")
    for axes, column, label in zip(
        figure.subplots(1, 2, sharey=True),
        (0, 1),
        ("evaluations", "seconds from start"),
        strict=True,
    ):
        axes.set_prop_cycle(color=[*colours, "#000000", "#882255"])
        for contender in CONTENDERS:
            colour = None
            for run in of(result, contender.name):
                end = run["evaluations"] if column == 0 else run["seconds"]
                x = [point[column] for point in run["curve"]] + [end]
                y = np.exp([point[2] for point in run["curve"]] + [run["curve"][-1][2]])
                (line,) = axes.plot(
                    x,
                    y,
                    drawstyle="steps-post",
                    color=colour,
                    linestyle="--" if contender.strategy else "-",
                    linewidth=1.2,
                    label=contender.name.replace("`", "") if colour is None else None,
                )
                colour = line.get_color()
        axes.set_yscale("log")
        axes.set_ylim(0.95 * best, 3 * best)
        axes.set_xlabel(label)
        axes.grid(color="#e5e7eb", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("perplexity of the best so far")
    figure.axes[1].legend(fontsize=8, frameon=False)
    figure.savefig(path)
