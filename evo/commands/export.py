"""`evo export`."""

from __future__ import annotations

from evo.huggingface.config import ExportConfig
from evo.storage.strict_json import dumps


def run(config: ExportConfig) -> None:
    """Write the directory, and print what was written."""
    from evo.huggingface.export_checkpoint import export

    print(dumps(export(config), indent=2))
