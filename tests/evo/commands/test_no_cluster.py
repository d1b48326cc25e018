"""Where there is no cluster, a command says so in one line, and has written nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from evo.cli import main
from evo.embedded import teacher_path
from tests.support import tiny_checkpoints

TRAINING = (
    "--model {model} --text {tokens} --tokens 680 --sequence-length 17 --workers 1 --threads 1 "
    "--gpus-per-worker 0 --out {out}"
)


@pytest.mark.parametrize(
    "command",
    [
        "search --teacher {model} --text {tokens} --bins 40% --workers 1 --gpus-per-worker 0 "
        "--out {out}",
        f"pretrain {TRAINING}",
        f"sweep {TRAINING} --validation-text {{tokens}} --grid learning_rate=0.1,0.01",
        "prepare --text {text} --tokenizer {tokenizer} --workers 1 --out {out}",
        "cache-logits --teacher {model} --text {tokens} --tokens 680 --top-k 8 --workers 1 "
        "--gpus-per-worker 0 --out {out}",
    ],
    ids=lambda command: command.partition(" ")[0],
)
def test_nothing_is_written_before_there_is_a_cluster(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A local Ray does not start where its sockets' paths would be too long."""
    (tmp_path / "text.txt").write_text("A line of text.\n" * 100)
    given = {
        "model": tiny_checkpoints.neox(tmp_path / "model"),
        "tokens": tiny_checkpoints.text(tmp_path / "tokens.npy"),
        "text": tmp_path / "text.txt",
        "tokenizer": teacher_path(),
        "out": tmp_path / "out",
    }
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("y" * 100)))
    (tmp_path / ("y" * 100)).mkdir()
    assert main(command.format(**given).split()) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "a Ray does not start here: " in line
    assert not (tmp_path / "out").exists()
