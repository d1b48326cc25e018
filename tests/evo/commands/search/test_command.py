"""What `evo search` prints at the end, and with which exit code it ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from evo.cli import main
from evo.model import checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def test_a_teacher_with_a_broken_weight_ends_at_once_with_the_reason(
    teacher: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = checkpoint.load(teacher("neox"))
    model = loaded.model()
    with torch.no_grad():
        model.transformer.ln_f.weight[:] = torch.nan
    checkpoint.save(tmp_path / "broken", model)
    np.save(tmp_path / "text.npy", np.arange(40 * 30) % 112)
    command = [
        "search", "--teacher", str(tmp_path / "broken"), "--text", str(tmp_path / "text.npy"),
        "--bins", "40%", "--out", str(tmp_path / "run"), "--population", "4", "--generations", "9",
        "--sequence-length", "40", "--workers", "1", "--order", "index", "--no-score-cache",
    ]  # fmt: skip
    for _ in range(2):
        assert main(command) == 1
        out, error = capsys.readouterr()
        assert "coarse-uniform@40%: candidates failed: 4 x NLL of a sequence is nan" in out
        assert error.splitlines()[-1] == (
            "evo search: no candidate of coarse-uniform@40% could be scored: NLL of a sequence is "
            "nan (4 of 4); to search anew, remove the run directory"
        )
