from __future__ import annotations

from typing import Any

import pytest

from evo.commands.search.progress_line import ProgressLine, format_line, read_lines
from evo.search.progress import Progress


def line(search: str, progress: Progress, **changes: Any) -> str:
    given = {
        "generations": 100, "best": "4.1000 (perplexity 60.34)", "median": "none",
        "units_per_second": 12.34, "gpu_hours": 1.234, "seconds_left": 75.0, "ended": None,
    }  # fmt: skip
    return format_line(search, progress, **given | changes)


@pytest.mark.parametrize("failed", [0, 2])
@pytest.mark.parametrize("screened", [0, 31])
@pytest.mark.parametrize("seconds", [None, 0.4, 75.0, 1e5])
def test_a_line_is_read_as_it_was_written(
    failed: int, screened: int, seconds: float | None
) -> None:
    progress = Progress(3, 200, 1_234_567, 4.1, None, failed, screened)
    (found,) = read_lines(line("coarse-uniform@40%", progress, seconds_left=seconds))
    assert found == ProgressLine(
        "coarse-uniform@40%", "3/100", "4.1000 (perplexity 60.34)", 200, 1_234_567, 1.23,
        found.left, "",
    )  # fmt: skip
    assert found.left
    ended = line("coarse-uniform@40%", progress, ended="space exhausted")
    (found,) = read_lines(ended)
    assert (found.left, found.ended) == ("", "space exhausted")


def test_the_last_line_of_each_search_counts_whatever_stands_between() -> None:
    first = Progress(0, 50, 100, None, None, 50, 0)
    later = Progress(1, 100, 200, 4.0, 4.5, 0, 0)
    log = "\n".join([
        "2 workers for 2 searches", line("a@385M-426M", first, best="none"), "a warning",
        line("b@1B", first), line("a@385M-426M", later), "", "evo search: terminated"
    ])  # fmt: skip
    one, other = read_lines(log)
    assert (one.search, one.generation, one.tokens) == ("a@385M-426M", "1/100", 200)
    assert (other.search, other.generation) == ("b@1B", "0/100")
    assert read_lines("nothing of the kind\n") == []
