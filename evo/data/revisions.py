"""Which commit of the hub's data sets a run reads: the one that it was begun with.

A later commit must not end a run that takes weeks, so a run's settings name its sources with the
commit, and the same command goes on with that.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from evo.data import hub
from evo.storage.run_directory import FILE, read_settings


def pin_sources(sources: Sequence[str], run: Path, setting: str) -> list[str]:
    """Sources, those of the hub with their commit.

    Args:
        sources: see `evo.data.sources`.
        run: directory of the run that reads them; where it was begun before, its commits hold.
        setting: the name that the sources have in its settings.

    Raises:
        UserError: a data set that cannot be opened, or settings that cannot be read.
    """
    recorded = read_settings(run).get(setting) if (run / FILE).is_file() else None
    before = [recorded] if isinstance(recorded, str) else recorded or []
    pairs = zip_longest(sources, before[: len(sources)])
    return [_pin(source, earlier) for source, earlier in pairs]


def _pin(source: str, earlier: str | None) -> str:
    if not source.startswith("hf:"):
        return source
    if earlier is not None and earlier.startswith("hf:") and hub.unpin(earlier) == source:
        return earlier
    return hub.pin(source)
