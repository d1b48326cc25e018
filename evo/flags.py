"""A config dataclass as command-line flags: its fields are the flags, its docstring the help."""

from __future__ import annotations

import json
import re
import shlex
from argparse import ArgumentError
from collections.abc import Sequence
from dataclasses import MISSING, fields
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import register_type

from evo.config_file import check_config_file
from evo.errors import UserError
from evo.quantities import Count, parse_count

Config = TypeVar("Config")


class WholeNumber(int):
    """What the argument parser makes of a field of type `Count`."""


register_type(WholeNumber, serializer=int, deserializer=parse_count)

TRUTHS = {"true", "false", "yes", "no", "null"}
"""What a switch takes as its value; any other word after it is something else."""


def parse_config(
    program: str,
    config_class: type[Config],
    arguments: Sequence[str],
    *,
    positional: Sequence[str] = (),
) -> Config:
    """The config, from flags and `--config` files. A field `like_this` is the flag `--like-this`;
    one that is true or false is set by `--like-this` and by `--no-like-this`, and takes the next
    word only where that is one of `TRUTHS`.

    Flags count more than files, wherever they stand.

    Args:
        program: the command, for its help.
        config_class: a dataclass with a Google-style docstring.
        arguments: what follows the command.
        positional: fields that are given without a flag.

    Raises:
        UserError: an unknown flag, a missing one, or a value that is not of its type.
        SystemExit: after `--help`.
    """
    described = docstring_parser.parse(config_class.__doc__ or "")
    parser = ArgumentParser(
        prog=program,
        description=described.short_description,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="a YAML file with values of these flags")
    kinds = _kinds(config_class)
    # The names in an inherited field's type are those of the module that defines it.
    config_class.__init__.__annotations__.update(kinds)
    lists = {field for field, kind in kinds.items() if _takes_several(kind)}
    switches = {_flag(field) for field, kind in kinds.items() if kind is bool}
    descriptions = _descriptions(config_class)
    for name in positional:
        kind = kinds[name]
        kind, number = (get_args(kind)[0], "+") if name in lists else (kind, None)
        parser.add_argument(name, type=kind, nargs=number, help=descriptions.get(name))
    parser.add_class_arguments(config_class, None, skip=set(positional))
    for action in parser._actions:
        action.help = descriptions.get(action.dest, action.help)
    _show_dashes(parser)
    try:
        given = _join_lists(_with_values(arguments, switches), lists)
        configs, others = _configs_apart(given)
        for config in configs:
            check_config_file(Path(config))
        # Whatever comes later counts for jsonargparse.
        parsed = parser.parse_args([*(f"--config={config}" for config in configs), *others])
    except ArgumentError as error:
        names = {name: name if name in positional else _flag(name) for name in kinds}
        problem = _problem(str(error), kinds, names)
        if problem.endswith("is missing") and problem.split()[0] in positional:
            problem += _swallowed(arguments, lists)
        raise UserError(f"{problem}; `{program} --help` lists the flags") from error
    values = {field.name: parsed[field.name] for field in fields(config_class)}  # type: ignore[arg-type]
    _refuse_null_characters(values)
    for name, value in values.items():
        if value is None and NoneType not in get_args(kinds[name]):
            raise UserError(f"{_flag(name)}: give {_wanted(kinds[name])}, not null")
    return config_class(**values)


def parse_value(config_class: type, name: str, text: str) -> Any:
    """A field's value, from what would be given to its flag.

    Args:
        config_class: a dataclass.
        name: one of its fields.
        text: the value; `null` is None where the field may be None.

    Raises:
        UserError: it is not of the field's type.
    """
    kind = _kinds(config_class)[name]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(_flag(name), type=kind)
    try:
        return parser.parse_args([f"{_flag(name)}={text}"])[name]
    except ArgumentError as error:
        raise UserError(f"{_flag(name)} {text}: give {_wanted(kind)}") from error


def _kinds(config_class: type) -> dict[str, Any]:
    """The type of each field, as the argument parser is to read it."""
    return {
        name: _kind(kind)
        for name, kind in get_type_hints(config_class, include_extras=True).items()
    }


def _kind(kind: Any) -> Any:
    """A field's type with `Count` replaced by what takes suffixes."""
    if kind == Count:
        return WholeNumber
    if get_args(kind) == (Count, NoneType):
        return WholeNumber | None
    return kind


def _takes_several(kind: Any) -> bool:
    """Whether a flag of this type takes a list, perhaps besides something else."""
    return get_origin(kind) is list or any(get_origin(part) is list for part in get_args(kind))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _problem(message: str, kinds: dict[str, Any], names: dict[str, str]) -> str:
    """What the argument parser complains of, in one line and in the words of the command line."""
    found = re.search(r'Parser key "(\w+)"', message)
    if found and found[1] in kinds:
        return f"{names[found[1]]}: give {_wanted(kinds[found[1]])}"
    if found := re.search(r'Key "(\w+)" is required', message):
        return f"{names.get(found[1], found[1])} is missing"
    if found := re.search(r'Key "(\w+)" not found in namespace', message):
        return f"a config file spells {found[1].replace('_', '-')} as {found[1]}"
    return message.removeprefix("Validation failed: ").rstrip(".")


def _wanted(kind: Any) -> str:
    """What a flag of this type takes."""
    choices = [choice for choice in get_args(kind) if choice is not type(None)]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, choices))}"
    if get_origin(kind) is list:
        known = get_args(choices[0])
        return f"some of {', '.join(map(str, known))}" if known else "values, one after the other"
    if choices:  # one type, or none
        return _wanted(choices[0])
    if kind is WholeNumber:
        return "a whole number, such as 1500000 or 1.5M"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a value")


def _descriptions(config_class: type) -> dict[str, str | None]:
    """What each field is, as its class says, or the nearest base class does."""
    described: dict[str, str | None] = {}
    for each in config_class.__mro__:
        for param in docstring_parser.parse(each.__doc__ or "").params:
            described.setdefault(param.arg_name, param.description)
    return described


def _show_dashes(parser: Any) -> None:
    """Spell the flags of fields `like_this` as `--like-this`."""
    for flag, action in list(parser._option_string_actions.items()):
        if "_" in flag:
            dashed = flag.replace("_", "-")
            parser._option_string_actions[dashed] = action
            action.option_strings = [
                dashed if option == flag else option for option in action.option_strings
            ]


def _with_values(arguments: Sequence[str], switches: set[str]) -> list[str]:
    """`--switch` and `--no-switch` as `--switch=true` and `--switch=false`."""
    values: list[str] = []
    for argument, following in pairwise([*arguments, "--"]):
        positive = argument.replace("--no-", "--", 1)
        if argument in switches and following.lower() not in TRUTHS:
            values.append(f"{argument}=true")
        elif argument != positive and positive in switches:
            values.append(f"{positive}=false")
        else:
            values.append(argument)
    return values


def _join_lists(arguments: Sequence[str], lists: set[str]) -> list[str]:
    """`--bins a b`, as users write it, as `--bins=["a", "b"]`, as jsonargparse takes it."""
    joined: list[str | list[str]] = []
    flag: list[str] | None = None  # one that takes several values, and its values so far
    for argument in arguments:
        if argument.startswith("-"):
            name, given, value = argument.partition("=")
            takes_several = name.removeprefix("--").replace("-", "_") in lists
            flag = [name, *([value] if given else [])] if takes_several else None
            joined.append(argument if flag is None else flag)
        elif flag is not None:
            flag.append(argument)
        else:
            joined.append(argument)
    return [
        argument if isinstance(argument, str) else f"{argument[0]}={_as_list(argument[1:])}"
        for argument in joined
    ]


def _configs_apart(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The files of `--config`, and all other arguments."""
    configs: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, given, value = argument.partition("=")
        if name != "--config":
            others.append(argument)
        elif given or (following := next(rest, None)) is None:
            configs.append(value)
        else:
            configs.append(following)
    return configs, others


def _refuse_null_characters(values: dict[str, Any]) -> None:
    """No system takes one in a path; a config file can hold one."""
    for name, value in values.items():
        if any("\0" in str(each) for each in (value if isinstance(value, list) else [value])):
            raise UserError(f"{_flag(name)}: a null character is part of no name and of no path")


def _swallowed(arguments: Sequence[str], lists: set[str]) -> str:
    """Where what has no flag must stand, if a flag may have taken it for one of its values."""
    given = [
        flag for argument in arguments if (flag := argument.partition("=")[0]) in map(_flag, lists)
    ]
    return f": it stands before flags that take several values, here {given[0]}" if given else ""


def _as_list(values: list[str]) -> str:
    return values[0] if len(values) == 1 and _is_list(values[0]) else json.dumps(values)


def _is_list(text: str) -> bool:
    """Whether a value is a list itself, and not one that begins like one, such as `[ab]*`."""
    try:
        return text.startswith("[") and isinstance(yaml.safe_load(text), list)
    except (yaml.YAMLError, ValueError, RecursionError):
        return False


def command_line(name: str, config: Any) -> str:
    """The line for a shell that runs a command with these settings.

    Args:
        name: of the command.
        config: its settings, a dataclass; those that have their defaults are left out.
    """
    words = ["evo", name]
    for field in fields(config):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value != default:
            words += _given(field.name, value)
    return shlex.join(words)


def _given(name: str, value: Any) -> list[str]:
    """A flag with its value, as a user gives it."""
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{name.replace('_', '-')}"]
    values = value if isinstance(value, list) else [value]
    return [_flag(name), *map(str, values)]
