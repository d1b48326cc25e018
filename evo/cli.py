"""The `evo` command: parse, build, run, close.

A command is a config class and a function that takes it; the class's fields are the flags, its
docstring the help. Only the module of the command that is asked for is imported.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from evo.errors import UserError
from evo.storage.strict_json import dumps


@dataclass(frozen=True)
class Command:
    """A command of `evo`.

    Attributes:
        help: one line.
        config: `module:class`, a dataclass whose fields are the flags.
        run: `module:function`, which takes the config.
        positional: fields that are given without a flag.
    """

    help: str
    config: str
    run: str
    positional: tuple[str, ...] = ()


COMMANDS = {
    "quickstart": Command(
        "search the built-in teacher, pretrain the winner, compare: 5 minutes on a laptop",
        "evo.commands.quickstart:QuickstartConfig",
        "evo.commands.quickstart:quickstart",
    ),
    "import": Command(
        "make a teacher of a Hugging Face checkpoint",
        "evo.huggingface.import_checkpoint:ImportConfig",
        "evo.cli:run_import",
        ("checkpoint",),
    ),
    "search": Command(
        "search a teacher for its best subnets in parameter bins",
        "evo.commands.search_config:SearchConfig",
        "evo.cli:run_search",
    ),
    "extract": Command(
        "write a candidate of a search as a standalone checkpoint",
        "evo.cli:ExtractConfig",
        "evo.cli:run_extract",
        ("run",),
    ),
    "prepare": Command(
        "tokenise a corpus on all of a cluster, once for all runs that read it",
        "evo.data.prepare:PrepareConfig",
        "evo.cli:run_prepare",
    ),
    "cache-logits": Command(
        "keep a teacher's likeliest tokens on a text, for any number of students to distil from "
        "(or: prepare --teacher)",
        "training.config:CacheLogitsConfig",
        "evo.cli:run_cache_logits",
    ),
    "pretrain": Command(
        "train a checkpoint, or its shape from random weights, with or without distillation",
        "training.config:PretrainConfig",
        "evo.cli:run_pretrain",
    ),
    "sweep": Command(
        "pretraining runs over settings, side by side, and which of them is best",
        "training.sweep.config:SweepConfig",
        "evo.cli:run_sweep",
    ),
    "compare": Command(
        "at what fraction of its FLOPs each run reaches the baseline's final perplexity",
        "evo.cli:CompareConfig",
        "evo.cli:run_compare",
        ("runs",),
    ),
    "eval": Command(
        "perplexity of a checkpoint on a text, or its score on tasks",
        "evo.cli:EvalConfig",
        "evo.cli:run_eval",
        ("model",),
    ),
    "export": Command(
        "write a checkpoint as a Hugging Face directory",
        "evo.huggingface.export_checkpoint:ExportConfig",
        "evo.cli:run_export",
        ("model",),
    ),
    "report": Command(
        "one HTML page of a search's curves and shapes, and its pictures",
        "evo.cli:ReportConfig",
        "evo.cli:run_report",
        ("run",),
    ),
}


@dataclass(frozen=True)
class ExtractConfig:
    """Write a candidate of a search as a standalone checkpoint.

    Attributes:
        run: run directory of `evo search`.
        out: checkpoint directory to make.
        search: which of the run's searches, SPACE@BIN; not needed where there is only one.
        candidate: its id in history.parquet; by default the best.
    """

    run: Path
    out: Path
    search: str | None = None
    candidate: str | None = None


@dataclass(frozen=True)
class EvalConfig:
    """Perplexity of a checkpoint on a text, or its score on tasks of lm-evaluation-harness.

    The last line of output is JSON: nll, perplexity, tokens; or results, versions, n-shot and
    n-samples, each by task. A number that is not finite is null.

    Attributes:
        model: checkpoint directory: a teacher, a winner, or a pretrained one.
        text: source of the text, as in `evo search`.
        sequence_length: tokens of a sequence; by default the model's block size, at most 2048.
        max_tokens: use so many tokens of the text at most, evenly spaced; by default all.
        stride: sequences overlap and score so many targets each, so that every target has a
            context of at least the sequence length less this; by default they lie side by side.
        tasks: tasks of lm-evaluation-harness instead of a text; also groups and tags.
        include_path: directory of YAML files with more tasks.
        few_shot: examples in a task's prompt; by default as the task says.
        limit: use so many samples of each task; by default all.
        dtype: of the weights: float32 or bfloat16.
        micro_batch: sequences that run at once.
        out: file for the results too, as JSON; by default none is written.

    Raises:
        UserError: not one of text and tasks, or settings of the other.
    """

    model: Path
    text: str | None = None
    sequence_length: int | None = None
    max_tokens: int | None = None
    stride: int | None = None
    tasks: list[str] = field(default_factory=list)
    include_path: Path | None = None
    few_shot: int | None = None
    limit: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    micro_batch: int = 8
    out: Path | None = None

    def __post_init__(self) -> None:
        if (self.text is None) != bool(self.tasks):
            raise UserError("give one of --text SOURCE and --tasks TASK ...")
        others = ("include_path", "few_shot", "limit")
        if self.tasks:
            others = ("sequence_length", "max_tokens", "stride")
        for name in others:
            if getattr(self, name) is not None:
                used, given = ("--text", "--tasks") if self.tasks else ("--tasks", "--text")
                raise UserError(
                    f"--{name.replace('_', '-')} is of use with {used}, not with {given}"
                )


@dataclass(frozen=True)
class CompareConfig:
    """At what fraction of its FLOPs each run reaches the baseline's final perplexity.

    Attributes:
        runs: run directories of `evo pretrain`.
        baseline: one of them; by default the first.
        out: directory for the table as JSON and the picture; by default none is written.
    """

    runs: list[Path]
    baseline: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class ReportConfig:
    """One HTML page of a search's curves and the population's shapes, with its pictures.

    Attributes:
        run: run directory of `evo search`; may still be running.
        out: directory for the page and the pictures; by default RUN/report.
    """

    run: Path
    out: Path | None = None


def run_import(config: Any) -> None:
    """`evo import`."""
    from evo.huggingface.import_checkpoint import import_checkpoint

    print(dumps(import_checkpoint(config), indent=2))


def run_search(config: Any) -> None:
    """`evo search`."""
    from rich.table import Table

    from evo.commands.search_display import result_console
    from evo.commands.search_driver import search

    summary = search(config)
    table = Table(title=str(config.out))
    for column in ("search", "winner", "parameters", "nll", "perplexity", "evaluations", "ended"):
        table.add_column(column, justify="left" if column == "search" else "right")
    for one in summary["searches"]:
        scored = one["candidate"] is not None
        table.add_row(
            one["name"],
            one["candidate"] or "none: every candidate failed",
            f"{one['params']:,}" if scored else "",
            f"{one['nll']:.4f}" if one["nll"] is not None else "",
            f"{one['perplexity']:.2f}" if one["perplexity"] is not None else "",
            str(one["evaluations"]),
            one["ended"],
        )
    result_console().print(table)


def run_extract(config: ExtractConfig) -> None:
    """`evo extract`."""
    from evo.search.winner import extract_candidate

    row = extract_candidate(config.run, config.search, config.candidate, config.out)
    print(
        f"{config.out}: {row.candidate}, {row.params:,} parameters, perplexity {row.perplexity:.2f}"
    )


def run_prepare(config: Any) -> None:
    """`evo prepare`."""
    from evo.data.prepare import prepare

    made = prepare(config)
    print(
        f"{config.out}: {made.documents:,} documents, {made.tokens:,} tokens, "
        f"{len(made.shards)} shards"
    )


def run_cache_logits(config: Any) -> None:
    """`evo cache-logits`."""
    from training.cache_logits import cache_logits

    print(dumps(cache_logits(config)))


def run_pretrain(config: Any) -> None:
    """`evo pretrain`."""
    from training.pretrain import pretrain

    summary = pretrain(config)
    shown = {key: value for key, value in summary.items() if key != "settings"}
    print(dumps(shown))


def run_sweep(config: Any) -> None:
    """`evo sweep`."""
    from dashboards.sweep_picture import draw_sweep
    from evo.commands.search_display import result_console
    from training.sweep.sweep import sweep

    outcome = sweep(config)
    draw_sweep(outcome.results, outcome.settings, config.out / "sweep.png")
    console = result_console()
    console.print(outcome.table)
    if outcome.best is not None:
        console.print(outcome.best, soft_wrap=True)
    outcome.check_failures()


def run_compare(config: CompareConfig) -> None:
    """`evo compare`."""
    from evo.commands.search_display import result_console
    from training.comparison.compare import compare, table

    comparison = compare(config.runs, baseline=config.baseline, out=config.out)
    result_console().print(table(comparison.baseline, comparison.groups))
    if config.out is not None:
        from dashboards.training_curves import draw_groups

        draw_groups(comparison.groups, comparison.baseline, config.out / "comparison.png")


def run_eval(config: EvalConfig) -> None:
    """`evo eval`."""
    from evo.storage.files import atomic_file, refuse_occupied
    from training.evaluation.evaluate import evaluate, evaluate_tasks

    if config.out is not None:
        refuse_occupied(config.out)
    if config.text is not None:
        result: dict[str, Any] = evaluate(
            config.model,
            config.text,
            sequence_length=config.sequence_length,
            max_tokens=config.max_tokens,
            stride=config.stride,
            micro_batch=config.micro_batch,
            dtype=config.dtype,
        )
    else:
        result = evaluate_tasks(
            config.model,
            config.tasks,
            include_path=config.include_path,
            few_shot=config.few_shot,
            limit=config.limit,
            micro_batch=config.micro_batch,
            dtype=config.dtype,
        )
    print(dumps(result))
    if config.out is not None:
        with atomic_file(config.out) as temporary:
            temporary.write_text(dumps(result, indent=2) + "\n")


def run_export(config: Any) -> None:
    """`evo export`."""
    from evo.huggingface.export_checkpoint import export

    print(dumps(export(config), indent=2))


def run_report(config: ReportConfig) -> None:
    """`evo report`."""
    from dashboards.report import report

    print(report(config.run, config.out or config.run / "report"))


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code.

    0 is success, 2 bad input (one line on stderr says what), 130 an interruption.
    """
    argv = sys.argv[1:] if arguments is None else arguments
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"evo: unknown command {name!r}: it is one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("evo").setLevel(logging.INFO)
    of_teacher = name == "prepare" and any(one.partition("=")[0] == "--teacher" for one in rest)
    meant = "cache-logits" if of_teacher else name
    try:
        _load(COMMANDS[meant].run)(_parse(meant, rest))
    except UserError as error:
        print(f"evo {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"evo {name}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left; so that Python's exit is quiet too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  evo {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["Pretrain small language models from sub-networks of a large one.", "", *lines, "",
         "evo COMMAND --help lists a command's flags; --config FILE.yaml reads them from a file."]
    )  # fmt: skip


def _parse(name: str, arguments: list[str]) -> Any:
    from evo.flags import parse_config

    command = COMMANDS[name]
    return parse_config(
        f"evo {name}", _load(command.config), arguments, positional=command.positional
    )


def _load(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
