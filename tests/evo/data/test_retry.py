from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evo.data import retry
from evo.data.retry import attempt, pause, resumed


def test_what_is_read_goes_on_where_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "WAITS", (0, 0))
    fails = [3, 0, 4, 4, 9]  # more than there are waits, but never three times in one place

    def read() -> Iterator[int]:
        stop = fails.pop(0)
        for number in range(9):
            if number == stop:
                raise OSError(5, "away")
            yield number

    def failed(error: Exception, waits: Iterator[float]) -> None:
        if not pause("it", error, waits):
            raise error

    assert list(resumed(read, failed)) == list(range(9))
    assert fails == []
    with pytest.raises(FileNotFoundError):
        attempt(Path("/nowhere").read_bytes, failed)
