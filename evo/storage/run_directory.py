"""A run directory's settings: written once, compared ever after.

Running the same command again goes on where the run stopped; running another one into the same
directory is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml

from evo.errors import UserError
from evo.storage.files import output_errors, write_whole
from evo.storage.records import checked, reading

FILE = "settings.yaml"

Kind = TypeVar("Kind")


def claim_run(
    directory: Path,
    settings: dict[str, Any],
    *,
    free: tuple[str, ...] = (),
    first: Callable[[], None] = lambda: None,
) -> bool:
    """Make a run directory, or find it made by the same settings.

    Args:
        directory: of the run.
        settings: resolved, plain values; what the result is a function of, and what is in `free`.
        free: keys that may differ at every start, such as the number of workers.
        first: called before anything is written into a new directory, such as to find a cluster.

    Returns:
        Whether the run has been started before.

    Raises:
        UserError: the directory holds another run, or something else, or cannot be written.
    """
    path = directory / FILE
    if path.is_file():
        before, now = flat(read_settings(directory)), flat(settings)
        for key in sorted(set(before) | set(now)):
            if key not in free and before.get(key) != now.get(key):
                raise UserError(
                    f"{directory} is a run with other settings: {key} was {before.get(key)!r}, now "
                    f"it is {now.get(key)!r}; use the same settings, or another --out"
                )
        return True
    with output_errors(directory):
        if directory.is_dir() and not all(map(_is_leftover, directory.iterdir())):
            raise UserError(f"{directory} is not empty and no run: name another --out")
    first()
    with output_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_whole(path, yaml.safe_dump(settings, sort_keys=False))
    return False


def _is_leftover(path: Path) -> bool:
    """Whether a file is what a start leaves that was killed before it wrote the settings."""
    return path.name == ".lock" or (path.name.startswith(".") and path.name.endswith(".tmp"))


def settle(directory: Path, name: str, value: Any) -> None:
    """Write down a setting that was left open when the run was claimed."""
    settings = read_settings(directory)
    write_whole(directory / FILE, yaml.safe_dump({**settings, name: value}, sort_keys=False))


def flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with those of a part named `part.name`."""
    parts: dict[str, Any] = {}
    for name, value in settings.items():
        inner = value if isinstance(value, dict) else {}
        parts |= {f"{name}.{key}": part for key, part in inner.items()} or {name: value}
    return parts


@overload
def read_settings(directory: Path) -> dict[str, Any]: ...


@overload
def read_settings(directory: Path, kind: type[Kind], of: str) -> Kind: ...


def read_settings(directory: Path, kind: Any = dict[str, Any], of: str = "") -> Any:
    """The settings of a run.

    Args:
        directory: of the run.
        kind: what of them is read, a `TypedDict`; by default all, unchecked.
        of: the command whose runs have these settings.

    Raises:
        UserError: the directory is no run, or of another kind; its settings are damaged.
    """
    path = directory / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{directory} is no run: it has no {FILE} that can be read") from error
    with reading(path, f"{directory} is no run any more"):
        settings = checked(yaml.safe_load(content), dict[str, Any])
    if not of:
        return settings
    with reading(path, f"{directory} is no run of {of}, or its settings were changed"):
        return checked(settings, kind)
