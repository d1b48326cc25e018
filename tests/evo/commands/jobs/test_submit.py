from __future__ import annotations

from pathlib import Path

import pytest

from evo.cli import COMMANDS, _parse, main
from evo.commands.jobs.config import Submitted
from evo.commands.jobs.listing import rows
from evo.commands.jobs.submit import _name, describe, entrypoint
from evo.commands.search.progress_line import ProgressLine
from tests.evo.jobs.test_job import OURS, attempt

SEARCH = ["--teacher", "/shared/a teacher", "--text", "/shared/t.txt", "--bins", "40%", "60%",
          "--out", "/shared/runs/first study"]  # fmt: skip


def submitted(name: str, words: list[str]) -> Submitted:
    return Submitted(name, tuple(words), _parse(name, words))


def test_the_line_is_what_the_user_typed() -> None:
    found = submitted("search", SEARCH)
    assert entrypoint(found) == (
        "evo search --teacher '/shared/a teacher' --text /shared/t.txt --bins 40% 60% "
        "--out '/shared/runs/first study'"
    )
    assert _name(found) == "search-first-study"
    assert describe(found) == {
        "command": "search", "out": "/shared/runs/first study", "teacher": "/shared/a teacher",
        "text": "/shared/t.txt", "bins": "40% 60%", "spaces": "coarse-uniform",
    }  # fmt: skip


def test_a_config_file_of_this_machine_is_written_out(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("teacher: /shared/t\ntext: /shared/t.txt\nbins: [40%]\n")
    found = submitted("search", ["--config", str(tmp_path / "c.yaml"), "--out", "/shared/run"])
    assert entrypoint(found) == (
        "evo search --teacher /shared/t --text /shared/t.txt --bins 40% --out /shared/run"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the command is missing: give it after `--`"),
        (["search", *SEARCH], "the command is missing"),
        (["--"], "after `--` stands one of quickstart, search, prepare"),
        (["--", "report", "x"], "after `--` stands one of"),
        (["--", "search", "--bins", "40%"], "is missing; `evo search --help` lists the flags"),
        (["--retries", "-1", "--", "search", *SEARCH], "--retries -1 cannot be"),
        (["--name", "a/b", "--", "search", *SEARCH], "--name a/b: give letters, digits"),
        (["--", "search", *SEARCH[:-1], "runs/x"], "--out runs/x is relative, and a job's own"),
        (["--address", "http://127.0.0.1:1", "--", "evo", "search", *SEARCH],
         "no cluster takes jobs at http://127.0.0.1:1 ("),
    ],
)  # fmt: skip
def test_what_cannot_be_submitted_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evo submit: ")
    assert message in line


@pytest.mark.parametrize("name", ["logs", "pause", "resume", "stop"])
def test_a_job_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert f"evo {name}: job is missing" in capsys.readouterr().err
    assert COMMANDS[name].positional == ("job",)


def test_a_row_for_each_search() -> None:
    found = [
        ProgressLine("a@40%", "3/9", "4.1", 40, 5000, 0.5, "1 min", ""),
        ProgressLine("a@60%", "9/9", "3.9", 99, 9000, 0.75, "", "budget"),
    ]
    first, second = rows(attempt(metadata=OURS | {"evo_attempt": "2"}), found)
    assert first[:-1] == (
        "study", "search", "running (attempt 2)", "a@40%: 4.1", "3/9", "5,000", "0.75", "1 min"
    )  # fmt: skip
    assert second == ("", "", "", "a@60%: 3.9", "9/9", "9,000", "", "budget", "")
    ((*_, left, _),) = rows(attempt(status="STOPPED"), found[:1])
    assert left == ""
    ((name, *rest),) = rows(attempt(start_time=None), [])
    assert (name, rest[-1]) == ("study", "")
