from __future__ import annotations

import json
from pathlib import Path

import pytest

from evo.commands.search.config import SearchConfig
from evo.errors import UserError
from evo.search.progress import Progress
from evo.search.spent import Spent
from evo.search.stopping import LIMITS, Stopping


def after(tokens: int, best: float | None) -> Progress:
    return Progress(3, 40, tokens, best, best, 0, 0)


@pytest.fixture
def spent(tmp_path: Path) -> Spent:
    """Two hours on half a GPU."""
    spent = Spent(tmp_path)
    for hour in range(3):
        spent.tick(0.5, lambda hour=hour: 3600.0 * hour)
    return spent


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({}, None),
        ({"max_hours": 2.0}, "max-hours"),
        ({"max_hours": 2.1}, None),
        ({"max_gpu_hours": 1.0}, "max-gpu-hours"),
        ({"max_gpu_hours": 1.1}, None),
        ({"max_tokens_scored": 1000}, "max-tokens-scored"),
        ({"max_tokens_scored": 1001}, None),
        ({"target_perplexity": 20.1}, "target-perplexity"),
        ({"target_perplexity": 20.0}, None),
    ],
)
def test_a_search_ends_at_its_limit(limits: dict, reason: str | None, spent: Spent) -> None:
    assert Stopping(**limits).reached(after(1000, 3.0), spent) == reason  # e^3 is 20.09


def test_without_a_candidate_no_perplexity_is_reached(spent: Spent) -> None:
    assert Stopping(target_perplexity=1e9).reached(after(0, None), spent) is None


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_nothing_can_keep_is_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} .* give more than"):
        Stopping(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_perplexity": 9.0, "fitness": "kl"}, "needs --fitness perplexity, not kl"),
        ({"max_gpu_hours": 1.0}, "--max-gpu-hours needs workers with GPUs"),
        ({"max_hours": 0.0}, "--max-hours 0 cannot be: give more than 0"),
    ],
)
def test_a_search_that_has_none_of_it_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SearchConfig(Path("teacher"), "text", ["40%"], Path("out"), **settings)


def test_time_goes_on_over_starts_and_not_between_them(spent: Spent, tmp_path: Path) -> None:
    spent.write()
    again = Spent(tmp_path)
    assert (again.seconds, again.gpu_seconds) == (7200, 3600)
    again.tick(2, lambda: 1e6)
    again.tick(2, lambda: 1e6 + 30)
    again.tick(2, lambda: 1e6 + 20)  # a clock that jumps back counts nothing
    assert (again.seconds, again.gpu_seconds) == (7230, 3660)
    assert json.loads((tmp_path / "spent.json").read_text())["seconds"] == 7230


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "spent.json").write_text('{"seconds": "many", "gpu_seconds": 0}')
    with pytest.raises(UserError, match=r"spent\.json is damaged .*: remove it to count from 0"):
        Spent(tmp_path)
