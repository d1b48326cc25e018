"""`evo import`."""

from __future__ import annotations

from evo.huggingface.config import ImportConfig
from evo.storage.strict_json import dumps


def run(config: ImportConfig) -> None:
    """Write the teacher, and print what was imported."""
    from evo.huggingface.import_checkpoint import import_checkpoint

    print(dumps(import_checkpoint(config), indent=2))
