"""The trials of a sweep: all combinations of some settings, random values of others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np

from evo.errors import UserError
from evo.flags import parse_value
from training.config import PretrainConfig

FIXED = (
    "out", "validation_text", "validation_tokens", "sequence_length", "loggers", "text_field",
    "on_bad_line", "bos",
)  # fmt: skip
"""Perplexities of runs that differ in these settings could not be compared."""

DIGITS = 4
"""Drawn numbers are rounded to this number of significant digits, to be read and typed."""

Draw = Callable[[np.random.Generator], Any]


@dataclass(frozen=True)
class Trial:
    """A run of a sweep.

    Attributes:
        name: name of the trial's directory, which begins with its number.
        settings: values that the trial tries, by field of `PretrainConfig`.
    """

    name: str
    settings: dict[str, Any]


def make_trials(
    grid: Sequence[str], random: Sequence[str], samples: int, rng: np.random.Generator
) -> list[Trial]:
    """All trials of a sweep: every combination of the grid, `samples` times with values drawn anew.

    The trials of fewer samples are the first ones of more samples.

    Args:
        grid: `NAME=VALUE,VALUE` each.
        random: `NAME=LOW..HIGH`, `NAME=log:LOW..HIGH` or `NAME=VALUE,VALUE` each.
        samples: how often values are drawn.
        rng: the source of randomness.

    Raises:
        UserError: a setting is unknown, named twice, or cannot have a value.
    """
    choices = {name: _values(name, text) for name, text in _named("--grid", grid)}
    draws = {name: _draw(name, text) for name, text in _named("--random", random)}
    if twice := set(choices) & set(draws):
        raise UserError(f"{min(twice)} is in --grid and in --random: name it in one of them")
    if not choices and not draws:
        raise UserError("nothing to try: give --grid NAME=VALUE,VALUE or --random NAME=LOW..HIGH")
    if samples > 1 and not draws:
        raise UserError(f"--samples {samples} draws nothing: give --random NAME=LOW..HIGH")
    tried: list[dict[str, Any]] = []
    for _ in range(samples):
        for values in product(*choices.values()):
            settings = dict(zip(choices, values, strict=True))
            settings |= {name: draw(rng) for name, draw in draws.items()}
            if settings not in tried:  # a choice of few can be drawn again
                tried.append(settings)
    return [Trial(_name(number, settings), settings) for number, settings in enumerate(tried)]


def _named(flag: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """The settings' names and the texts of their values."""
    known = [field.name for field in fields(PretrainConfig)]
    texts_by_name: dict[str, str] = {}
    for text in texts:
        written, _, values = text.partition("=")
        name = written.replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise UserError(
                f"{flag} {text}: `evo pretrain` has no setting {written}"
                + (f"; it has {near[0]}" if near else "")
            )
        if name in FIXED:
            raise UserError(f"{flag} {text}: all runs of a sweep have the same {name}")
        if not values:
            raise UserError(f"{flag} {text}: give {name}=VALUE,VALUE")
        if name in texts_by_name:
            raise UserError(f"{flag}: {name} is named twice")
        texts_by_name[name] = values
    return list(texts_by_name.items())


def _values(name: str, text: str) -> list[Any]:
    """The values in a text such as `0.1,0.2`; commas inside of brackets belong to a value."""
    parts = re.findall(r"\[.*?\]|[^,]+", text)
    values = [parse_value(PretrainConfig, name, part) for part in parts]
    if any(values.count(value) > 1 for value in values):
        raise UserError(f"{name}={text}: the same value twice")
    return values


def _draw(name: str, text: str) -> Draw:
    """A function that draws a value from one of Ray Tune's distributions."""
    from ray import tune  # seconds to import, and only needed here

    kind = get_type_hints(PretrainConfig)[name]
    kinds = set(get_args(kind) or (kind,))
    low, is_range, high = text.removeprefix("log:").partition("..")
    if not is_range or not kinds & {int, float}:
        domain: Any = tune.choice(_values(name, text))
        return lambda rng: domain.sample(random_state=rng)
    least, most = (parse_value(PretrainConfig, name, end) for end in (low, high))
    is_log = text.startswith("log:")
    if least is None or most is None or not least < most or (is_log and least <= 0):
        condition = "more than 0, and the first less than the second" if is_log else "rising"
        raise UserError(f"{name}={text}: the ends of a range must be {condition}")
    if float in kinds:
        domain = (tune.loguniform if is_log else tune.uniform)(least, most)
        return lambda rng: float(f"{domain.sample(random_state=rng):.{DIGITS}g}")
    domain = (tune.lograndint if is_log else tune.randint)(least, most + 1)
    return lambda rng: domain.sample(random_state=rng)


def _name(number: int, settings: dict[str, Any]) -> str:
    """A directory's name that is short and unique."""
    parts = [f"{name}={shown(value)}" for name, value in settings.items()]
    return re.sub(r"[^\w.=+-]", "-", "_".join([f"{number:03}", *parts]))[:120]


def shown(value: Any) -> str:
    """A setting's value in short: the last part of a path."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Path) or (isinstance(value, str) and "/" in value):
        return Path(value).name
    return str(value)
