"""The address at which Grafana shows a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from urllib.parse import urlencode

from evo.storage.names import ascii_name

HOSTS = ("RAY_GRAFANA_IFRAME_HOST", "RAY_GRAFANA_HOST")
"""Ray's variables that say where a browser finds Grafana."""

DASHBOARDS = {
    "search": "evo-search",
    "pretrain": "evo-pretraining",
    "select": "evo-pretraining",
    "sweep": "evo-pretraining",
}
"""The dashboard of each command that has any."""

OF_ONE_RUN = ("search", "pretrain")


def grafana_link(command: str, out: str, environment: Mapping[str, str]) -> str | None:
    """The address of a run's dashboard.

    Args:
        command: the command's name.
        out: its run directory.
        environment: variables of the process.

    Returns:
        None where no Grafana is named, or nothing of the command is shown there.
    """
    host = next((environment[name] for name in HOSTS if environment.get(name)), "DISABLED")
    if host == "DISABLED" or command not in DASHBOARDS:
        return None
    address = f"{host.rstrip('/')}/d/{DASHBOARDS[command]}"
    if command not in OF_ONE_RUN or not out:
        return address
    return f"{address}?{urlencode({'var-run': ascii_name(PurePosixPath(out).name)})}"
