"""Settings of a train-off that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evo.errors import UserError
from training.selection.config import SelectConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_text": None}, "give --validation-text"),
        ({"finalists": 1}, "--finalists 1: it must be at least 2"),
        ({"share": 0.0}, "--share 0.0: it must be above 0 and below 1"),
        ({"share": 1.0}, "--share 1.0"),
        ({"workers": 0}, "--workers 0"),
        ({"workers_per_finalist": 0}, "--workers-per-finalist 0"),
        ({"workers": 2, "workers_per_finalist": 2}, "leave --workers away"),
        ({"threads": 0}, "--threads 0"),
        ({"tokens": 0}, "--tokens 0"),
    ],
)
def test_values_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    given = {"run": Path("r"), "text": "t", "tokens": 9, "validation_text": "v"}
    with pytest.raises(UserError, match=message):
        SelectConfig(**given | changes)
