"""The committed dashboards and rules, and a copy of them."""

from __future__ import annotations

from pathlib import Path

from evo.storage.files import write_whole

COMMITTED = Path(__file__).parent / "committed"
ALERTS = "evo-alerts.yaml"


def copy_to(directory: Path) -> list[Path]:
    """Write the dashboards and the alert rules into a directory, each file whole or not at all.

    Args:
        directory: is made where there is none.

    Returns:
        The files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    copies = []
    for path in sorted(COMMITTED.iterdir()):
        copy = directory / path.name
        write_whole(copy, path.read_text())
        copies.append(copy)
    return copies
