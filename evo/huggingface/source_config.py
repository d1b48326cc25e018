"""The content of a Hugging Face `config.json`, each field read with its kind checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo.errors import UserError

LARGEST = 2**31 - 1
"""No size of a network is above this: whatever is was damaged."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""What a layer sees: everything before it, or a window."""


@dataclass(frozen=True)
class SourceConfig:
    """The content of a `config.json`.

    Attributes:
        path: the file, for messages.
        fields: as they stand in it.
    """

    path: Path
    fields: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> SourceConfig:
        """The config in a file.

        Raises:
            UserError: the file is not there, or is no JSON object.
        """
        if not path.is_file():
            raise UserError(
                f"{path.parent} has no config.json: name a Hugging Face checkpoint directory"
            )
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is no JSON: {error}") from error
        if not isinstance(fields, dict):
            raise UserError(f"{path} is no JSON object of settings")
        return cls(path, fields)

    def has(self, name: str) -> bool:
        """Whether a field is there and not null."""
        return self.fields.get(name) is not None

    def size(self, name: str, default: int | None = None, most: int = LARGEST) -> int:
        """A positive integer.

        Raises:
            UserError: it is missing and has no default, is something else, or above `most`.
        """
        value = self.fields.get(name)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= most:
            raise UserError(
                f"{self.path}: {name} is {_short(value)}, but a positive integer is needed"
                + (f", at most {most}" if type(value) is int and value > most else "")
            )
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number.

        Raises:
            UserError: it is missing and has no default, or is something else.
        """
        value = self.fields.get(name)
        return self.positive(name, default if value is None else value)

    def optional_number(self, name: str, default: float | None = None) -> float | None:
        """A positive number, or None where the field is null.

        Raises:
            UserError: it is something else.
        """
        value = self.fields.get(name, default)
        return None if value is None else self.positive(name, value)

    def positive(self, name: str, value: Any) -> float:
        """A value that must be a positive number, with the name that a message gives it.

        Raises:
            UserError: it is something else.
        """
        is_number = not isinstance(value, bool) and isinstance(value, int | float)
        try:
            is_number = is_number and value > 0 and math.isfinite(value)
        except OverflowError:  # an integer that no float holds
            is_number = False
        if not is_number:
            raise UserError(
                f"{self.path}: {name} is {_short(value)}, but a positive number is needed"
            )
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false; the default where it is missing or null.

        Raises:
            UserError: it is something else.
        """
        value = self.fields.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise UserError(f"{self.path}: {name} is {_short(value)}, but true or false is needed")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string.

        Raises:
            UserError: it is missing and has no default, or is something else.
        """
        value = self.fields.get(name)
        value = default if value is None else value
        if not isinstance(value, str):
            raise UserError(f"{self.path}: {name} is {_short(value)}, but a string is needed")
        return value

    def group(self, name: str) -> dict[str, Any]:
        """An object of further fields, empty where it is missing or null.

        Raises:
            UserError: it is something else.
        """
        value = self.fields.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise UserError(
                f"{self.path}: {name} is {_short(value)}, but an object of settings is needed"
            )
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> Any:
        """One of some strings.

        Raises:
            UserError: it is missing, or is something else.
        """
        value = self.fields.get(name)
        if not isinstance(value, str) or value not in choices:
            raise UserError(
                f"{self.path}: {name} is {_short(value)}, but {' or '.join(choices)} is needed"
            )
        return value

    def sizes(self, name: str) -> list[int]:
        """A list of positive integers, one for each block.

        Raises:
            UserError: it is missing, empty, or something else.
        """
        value: Any = self.fields.get(name)
        is_list = isinstance(value, list) and value
        if not is_list or any(type(n) is not int or not 1 <= n <= LARGEST for n in value):
            raise UserError(
                f"{self.path}: {name} is {_short(value)}, but a list of positive integers is needed"
            )
        return list(value)

    def layer_types(self, default: list[str]) -> list[bool]:
        """For each layer, whether it sees a window alone.

        Raises:
            UserError: `layer_types` is no list of so many layers, or has kinds that are unknown.
        """
        kinds = self.fields.get("layer_types")
        kinds = default if kinds is None else kinds
        if not isinstance(kinds, list) or any(kind not in (FULL, SLIDING) for kind in kinds):
            raise UserError(
                f"{self.path}: layer_types is {_short(kinds)}, but a list of {FULL!r} and "
                f"{SLIDING!r} is needed"
            )
        if len(kinds) != (layers := self.size("num_hidden_layers")):
            raise UserError(
                f"{self.path}: layer_types has {len(kinds)} entries for {layers} layers"
            )
        return [kind == SLIDING for kind in kinds]

    def refusal(self, reason: str) -> UserError:
        """The error that says why this checkpoint cannot be imported."""
        return UserError(f"{self.path}: cannot be imported, {reason}")


def _short(value: Any) -> str:
    """A value on one line, for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
