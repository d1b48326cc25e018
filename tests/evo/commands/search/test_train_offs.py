"""`evo search --select`: a search and the train-offs of its bins in one command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from evo.cli import main
from evo.search.history.history import History
from evo.storage.run_directory import read_settings
from tests.support import tiny_checkpoints

LENGTH = 17


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """The command line of a small search in two bins, with a file of these flags of `evo select`.

    A flag that is None is left away.
    """
    text = tiny_checkpoints.text(tmp_path / "text.npy")
    teacher = tiny_checkpoints.llama(tmp_path / "teacher")

    def of(**changes: object) -> list[str]:
        flags = {
            "text": text,
            "validation_text": tiny_checkpoints.text(tmp_path / "validation.npy", seed=1),
            "tokens": 20 * 4 * LENGTH,
            "batch_tokens": 4 * LENGTH,
            "finalists": 2,
            "share": 0.2,
            "gpus_per_worker": 0,
        }
        given = {name: value for name, value in (flags | changes).items() if value is not None}
        (tmp_path / "select.yaml").write_text(yaml.safe_dump(given))
        return [
            "search", "--teacher", str(teacher), "--text", text, "--bins", "50%", "70%",
            "--population", "4", "--generations", "1", "--sequence-length", str(LENGTH),
            "--workers", "1", "--no-score-cache", "--select", str(tmp_path / "select.yaml"),
            "--out", str(tmp_path / "run"),
        ]  # fmt: skip

    return of


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_train_off_follows_in_each_bin_and_the_same_command_adds_nothing(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command()) == 0
    printed = capsys.readouterr().out
    for bin in ("50%", "70%"):
        directory = tmp_path / "run" / "select" / bin
        summary = json.loads((directory / "summary.json").read_text())
        assert [one["search"] for one in summary["finalists"]] == [f"coarse-uniform@{bin}"] * 2
        assert summary["rounds"][-1]["step"] == 4
        assert summary["continue"] in printed
        first = History(tmp_path / "run" / "searches" / f"coarse-uniform@{bin}").rows()
        (pruned,) = [row.candidate for row in first if row.operator == "one-shot"]
        assert pruned in {one["candidate"] for one in summary["finalists"]}
        assert (directory / "selection.png").is_file()
    assert read_settings(tmp_path / "run")["niches"] == "layers"
    before = (tmp_path / "run" / "summary.json").stat().st_mtime_ns
    assert main(command()) == 0
    flag = command().index("--select")
    assert main([*command()[:flag], *command()[flag + 2 :]]) == 0
    assert (tmp_path / "run" / "summary.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens": None}, "tokens is missing"),
        ({"finalist": 3}, "finalist"),
        ({"bin": "50%"}, "leave bin and out away"),
        ({"share": 0.9}, "give a smaller --share"),
        ({"share": 0.05, "finalists": 8}, "give fewer --finalists"),
        ({"text": "nowhere/*.txt"}, "nowhere"),
        ({"validation_text": None}, "give --validation-text"),
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_the_search(
    command: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    problem: str,
) -> None:
    assert main(command(**changes)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line
    assert not (tmp_path / "run").exists()
