"""`evo pretrain`."""

from __future__ import annotations

from evo.storage.strict_json import dumps
from training.pretrain import PretrainConfig, pretrain


def run(config: PretrainConfig) -> None:
    """Train, and print the run's summary without its settings."""
    summary = pretrain(config)
    print(dumps({key: value for key, value in summary.items() if key != "settings"}))
