"""A run directory's settings: written once, compared ever after.

Running the same command again goes on where the run stopped; running another one into the same
directory is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml

from evo.errors import UserError
from evo.storage.files import exclusive, output_errors, write_whole
from evo.storage.records import checked, reading

FILE = "settings.yaml"

Kind = TypeVar("Kind")

Settings = Mapping[str, Any]

HASHES = {
    "teacher_hash": ("--teacher", "the checkpoint that --teacher names"),
    "model_hash": ("--model", "the checkpoint that --model names"),
    "teacher_logits_hash": ("--teacher-logits", "what --teacher-logits names"),
    "tokenizer_hash": ("--tokenizer", "the tokenizer"),
    "text_hash": ("--text", "the text that --text names"),
    "files_hash": ("--text", "the corpus that --text names"),
    "order_text_hash": ("--order-text", "the text that --order-text names"),
    "gate_text_hash": ("--gate-text", "the text that --gate-text names"),
    "validation_hash": ("--validation-text", "the text that --validation-text names"),
    "start_hash": ("--start-from", "the run that --start-from names"),
}
"""What a recorded hash is of, and the flag that names it. These follow from other settings."""

FLAGS = {
    "device": "--gpus-per-worker",
    "steps": "--tokens, in steps,",
    "blocks": "--tokens, in sequences,",
    "batch": "--batch-tokens, in sequences,",
    "warmup_steps": "--warmup, in steps,",
    "decay_steps": "--decay, in steps,",
    "text_shares": "--text-weights",
    "text_tokens": "--text, in tokens,",
}
"""The flags of settings that are recorded as what comes of them."""

CONSEQUENCES = ("flops_per_token", "loss.vocabulary", "teacher_logits_flops", "text_note")
"""No flag says these: they are named only where nothing else differs."""


def claim_run(
    directory: Path,
    settings: dict[str, Any],
    *,
    free: tuple[str, ...] = (),
    growing: Collection[str] = (),
    reopen: Callable[[Settings, Settings], None] = lambda before, now: None,
    first: Callable[[], None] = lambda: None,
) -> bool:
    """Make a run directory, or find it made by the same settings.

    Args:
        directory: of the run.
        settings: resolved, plain values; what the result is a function of, and what is in `free`.
        free: keys that may differ at every start, such as the number of workers.
        growing: keys that may be changed where what is there is the beginning of what is asked for.
        reopen: called with the settings before and now where only those differ, and before the new
            ones are written: refuses, or makes the run an unfinished one.
        first: called before anything is written, such as to find a cluster; not where a run just
            goes on.

    Returns:
        Whether the run has been started before.

    Raises:
        UserError: the directory holds another run, or something else, or cannot be written.
    """
    path = directory / FILE
    if path.is_file():
        now = flat(settings)
        if _is_grown(directory, now, free, growing):
            first()
            with exclusive(directory):
                if _is_grown(directory, now, free, growing):  # and not by another start meanwhile
                    reopen(flat(read_settings(directory)), now)
                    write_whole(path, yaml.safe_dump(settings, sort_keys=False))
        return True
    with output_errors(directory):
        if directory.is_dir() and not all(map(_is_leftover, directory.iterdir())):
            raise UserError(f"{directory} is not empty and no run: name another --out")
    first()
    with output_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_whole(path, yaml.safe_dump(settings, sort_keys=False))
    return False


def _is_grown(
    directory: Path, now: Settings, free: Collection[str], growing: Collection[str]
) -> bool:
    """Whether a run is asked for more than it was begun with.

    Raises:
        UserError: something else is asked for.
    """
    before = flat(read_settings(directory))
    changed = [
        key
        for key in sorted({*before, *now}, key=_order)
        if key not in free and before.get(key) != now.get(key)
    ]
    for key in changed:
        if key not in growing:
            raise other_setting(directory, key, before, now)
    return bool(changed)


def _order(key: str) -> tuple[int, int, str]:
    """What a user has typed comes before what follows from it.

    The order of `HASHES` counts, as the fitness text is that of the order where none is named.
    """
    for rank, kind in enumerate((list(FLAGS), list(HASHES), list(CONSEQUENCES)), 1):
        if key in kind:
            return rank, kind.index(key), key
    return 0, 0, key


def other_setting(directory: Path, key: str, before: Settings, now: Settings) -> UserError:
    """The refusal of a run that was begun with another setting.

    Args:
        directory: of the run.
        key: the setting that differs.
        before: the settings with which the run began, flat.
        now: those that are asked for.
    """
    return UserError(
        f"{directory} is a run with other settings: "
        f"{difference(key, before.get(key), now.get(key))}; "
        "give what it was begun with, or another --out"
    )


def difference(key: str, before: Any, now: Any) -> str:
    """How a recorded setting differs, in the words of the command line.

    Args:
        key: the setting's name, `part.name` where it is in a part.
        before: its value when the run began; None where it was left to its default.
        now: its value now.
    """
    if key in HASHES:
        flag, content = HASHES[key]
        if before is None or now is None:
            given = "now it is given" if before is None else "now it is not given"
            return f"{flag} was {'not ' if before is None else ''}given, {given}"
        return f"{content} has other content than when the run began"
    flag = FLAGS.get(key) or f"--{key.rpartition('.')[2].replace('_', '-')}"
    return f"{flag} was {_typed(before)}, now it is {_typed(now)}"


def _typed(value: Any) -> str:
    """A value as the user types it."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


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
