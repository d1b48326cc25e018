"""The `evo` command: parse, build, run, close.

A command is a config class and a function that takes it; the class's fields are the flags, its
docstring the help. Only the module of the command that is asked for is imported.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from evo.errors import RunFailed, UserError
from evo.storage.refusals import is_full
from evo.termination import heed_sigterm, was_terminated


@dataclass(frozen=True)
class Command:
    """A command of `evo`.

    Attributes:
        help: one line.
        config: `module:class`, a dataclass whose fields are the flags.
        positional: fields that are given without a flag.
        run: the function in the same module that takes the config.
        on_ray: whether it runs on a cluster, and leaves its results there.
        takes_command: whether another command follows, after `--`.
    """

    help: str
    config: str
    positional: tuple[str, ...] = ()
    run: str = "run"
    on_ray: bool = False
    takes_command: bool = False

    def load(self, name: str) -> Any:
        """Import a class or a function of the command's module."""
        return getattr(import_module(self.config.partition(":")[0]), name)


COMMANDS = {
    "quickstart": Command(
        "search the built-in teacher, pretrain the winner, compare: some 4 minutes on a laptop",
        "evo.commands.quickstart.command:QuickstartConfig",
        run="quickstart",
        on_ray=True,
    ),
    "import": Command(
        "make a teacher of a Hugging Face checkpoint",
        "evo.commands.import_checkpoint:ImportConfig",
        ("checkpoint",),
    ),
    "search": Command(
        "search a teacher for its best subnets in parameter bins",
        "evo.commands.search.command:SearchConfig",
        on_ray=True,
    ),
    "extract": Command(
        "write a candidate of a search as a standalone checkpoint",
        "evo.commands.extract:ExtractConfig",
        ("run",),
    ),
    "prepare": Command(
        "tokenise a corpus on all of a cluster, once for all runs that read it",
        "evo.commands.prepare:PrepareConfig",
        on_ray=True,
    ),
    "cache-logits": Command(
        "keep a teacher's likeliest tokens on a text, for any number of students to distil from "
        "(or: prepare --teacher)",
        "evo.commands.cache_logits:CacheLogitsConfig",
        on_ray=True,
    ),
    "pretrain": Command(
        "train a checkpoint, or its shape from random weights, with or without distillation",
        "evo.commands.pretrain:PretrainConfig",
        on_ray=True,
    ),
    "select": Command(
        "pretrain a search's finalists side by side, halve them until the winner is left",
        "evo.commands.select:SelectConfig",
        ("run",),
        on_ray=True,
    ),
    "sweep": Command(
        "pretraining runs over settings, side by side, and which of them is best",
        "evo.commands.sweep:SweepConfig",
        on_ray=True,
    ),
    "compare": Command(
        "at what fraction of its FLOPs each run reaches the baseline's final perplexity",
        "evo.commands.compare:CompareConfig",
        ("runs",),
    ),
    "eval": Command(
        "perplexity of a checkpoint on a text, or its score on tasks",
        "evo.commands.eval:EvalConfig",
        ("model",),
    ),
    "export": Command(
        "write a checkpoint as a Hugging Face directory",
        "evo.commands.export:ExportConfig",
        ("model",),
    ),
    "report": Command(
        "one HTML page of a search's curves and shapes, and its pictures",
        "evo.commands.report:ReportConfig",
        ("run",),
    ),
    "dashboards": Command(
        "write Grafana's dashboards and Prometheus' alert rules",
        "evo.commands.dashboards:DashboardsConfig",
    ),
    "submit": Command(
        "run a command as a job on a Ray cluster: evo submit -- search --teacher ...",
        "evo.commands.jobs.submit:SubmitConfig",
        takes_command=True,
    ),
    "jobs": Command(
        "list the jobs of a cluster, and how far their searches are",
        "evo.commands.jobs.listing:JobsConfig",
    ),
    "logs": Command(
        "show what a job has said",
        "evo.commands.jobs.control:LogsConfig",
        ("job",),
        run="logs",
    ),
    "pause": Command(
        "end a job in order; evo resume goes on with it",
        "evo.commands.jobs.control:PauseConfig",
        ("job",),
        run="pause",
    ),
    "resume": Command(
        "go on with a job that was paused, was lost or has failed",
        "evo.commands.jobs.control:ResumeConfig",
        ("job",),
        run="resume",
    ),
    "stop": Command(
        "end a job for good; its run directory stays",
        "evo.commands.jobs.control:StopConfig",
        ("job",),
        run="stop",
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code.

    0 is success, 1 a run that came to nothing and 2 bad input (one line on stderr says why), 130 an
    interruption, 143 the end by a SIGTERM.
    """
    argv = sys.argv[1:] if arguments is None else arguments
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"evo: unknown command {name!r}: it is one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    heed_sigterm()
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("evo").setLevel(logging.INFO)
    of_teacher = name == "prepare" and any(
        argument.partition("=")[0] == "--teacher" for argument in rest
    )
    meant = "cache-logits" if of_teacher else name
    try:
        command = COMMANDS[meant]
        own, submitted = _apart(rest) if command.takes_command else (rest, ())
        config = _parse(meant, own)
        if command.on_ray:
            _check_cluster(getattr(config, "out", None))
        command.load(command.run)(config, *submitted)
        sys.stdout.flush()  # a full disk that takes the output is met here, not at Python's exit
    except UserError as error:
        print(f"evo {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RunFailed as error:
        print(f"evo {name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        how, code = ("terminated", 143) if was_terminated() else ("interrupted", 130)
        print(f"evo {name}: {how}; the same command goes on from here", file=sys.stderr)
        return code
    except BrokenPipeError:  # the reader of our output has left
        _drop_output()
        return 1
    except OSError as error:
        # A path that cannot be looked at, a disk that is full: all that an operating system
        # refuses and names a file for is the user's to mend.
        if error.filename is None:
            if not is_full(error):
                raise
            _drop_output()
            print(f"evo {name}: cannot write: {error.strerror or error}", file=sys.stderr)
        else:
            print(f"evo {name}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _apart(arguments: list[str]) -> tuple[list[str], tuple[Any, ...]]:
    """A command's own arguments, and the command that follows them after `--`.

    Raises:
        UserError: none does, or one that does not run on a cluster, or its flags are wrong.
    """
    from evo.commands.jobs.config import Submitted

    own, found = arguments, [name for name, command in COMMANDS.items() if command.on_ray]
    before = own[: own.index("--")] if "--" in own else own
    if "--help" in before or "-h" in before:
        return own, ()
    if "--" not in own:
        raise UserError("the command is missing: give it after `--`, as in evo submit -- search")
    place = own.index("--")
    own, given = arguments[:place], arguments[place + 1 :]
    given = given[1:] if given[:1] == ["evo"] else given
    if not given or given[0] not in found:
        raise UserError(f"after `--` stands one of {', '.join(found)}")
    name, *words = given
    return own, (Submitted(name, tuple(words), _parse(name, words)),)


def _drop_output() -> None:
    """Take no more output, so that Python's exit is quiet too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_cluster(out: Path | None) -> None:
    """Before anything is read or written."""
    from evo.ray_address import check_address, refuse_throw_away

    if out is not None:
        refuse_throw_away(out)
    check_address()


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
    config = command.load(command.config.partition(":")[2])
    return parse_config(f"evo {name}", config, arguments, positional=command.positional)
