"""`evo pretrain`."""

from __future__ import annotations

from evo.storage.strict_json import dumps
from training.config import PretrainConfig


def run(config: PretrainConfig) -> None:
    """Train, and print the run's summary without its settings."""
    from training.pretrain import pretrain

    summary = pretrain(config)
    print(dumps({key: value for key, value in summary.items() if key != "settings"}))
