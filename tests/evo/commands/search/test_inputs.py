"""What a search reads and checks before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evo.commands.search.config import SearchConfig
from evo.commands.search.inputs import read_inputs
from evo.errors import UserError


@pytest.mark.parametrize("bins", [["40%", "40.0%"], ["20000-22000", "20K-22K"]])
def test_a_bin_that_is_written_in_two_ways_is_one_bin(
    bins: list[str], teacher: Callable[[str], Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "text.npy", np.arange(40 * 30) % 112)
    config = SearchConfig(
        teacher=teacher("neox"), text=str(tmp_path / "text.npy"), bins=bins, out=tmp_path / "run"
    )
    with pytest.raises(UserError, match="two of them are one bin"):
        read_inputs(config)
