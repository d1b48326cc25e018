"""Every way in which a file of a run may be damaged, or be another one's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ODD: list[Any] = [None, "text", -1, 10**40, 0.5, [], {}, [[1]], True]
"""Values in a field's place."""

OTHER_JSON = ["{}", "[]", "null", "3", '"text"', "[[]]", '{"a": 1}', "[1, [2]]", "[" * 5000, "\x00"]
"""Whole files of valid JSON, and two of none."""


@dataclass(frozen=True)
class Damage:
    """What is done to a file.

    Attributes:
        how: in words, for a test's name.
        content: what the file then holds; None: it is not there.
    """

    how: str
    content: bytes | None


def damages(path: Path, *, seed: int = 0, bytes_changed: int = 3) -> Iterator[Damage]:
    """Damages of a file: cut off, emptied, gone, other bytes, other JSON, fields changed.

    Args:
        path: of the file.
        seed: of the bytes that are changed.
        bytes_changed: how many single bytes are changed, one at a time.
    """
    whole = path.read_bytes()
    rng = np.random.default_rng([seed, len(whole)])
    yield Damage("gone", None)
    for keep in sorted({0, 1, len(whole) // 2, len(whole) - 1}):
        yield Damage(f"cut off after {keep} bytes", whole[:keep])
    yield Damage("random bytes", rng.bytes(len(whole) or 16))
    for place in rng.integers(0, max(1, len(whole)), bytes_changed):
        changed = bytearray(whole or b"\x00")
        changed[place] ^= int(rng.integers(1, 256))
        yield Damage(f"another byte at {place}", bytes(changed))
    if path.suffix in (".json", ".jsonl", ".yaml", ".parquet", ".npz"):
        for text in OTHER_JSON:
            yield Damage(f"{text[:12]!r} in its place", f"{text}\n".encode())
    if path.suffix == ".json":
        yield from _fields(json.loads(whole), lambda content: json.dumps(content))
    elif path.suffix == ".yaml":
        yield from _fields(yaml.safe_load(whole), lambda content: yaml.safe_dump(content))
    elif path.suffix == ".jsonl":
        yield from _lines(whole)


def _fields(
    content: Any, write: Callable[[Any], str], most: int = 400, prefix: str = ""
) -> Iterator[Damage]:
    """Each field missing, and with other values; of lists the first entry alone."""
    places = list(_places(content))
    for place in places[:most]:
        name = prefix + ".".join(map(str, place))
        changed = copy.deepcopy(content)
        parent = changed
        for key in place[:-1]:
            parent = parent[key]
        del parent[place[-1]]
        yield Damage(f"without {name}", write(changed).encode())
        # Values take turns, so that each field has some of them.
        for turn in range(3):
            odd = ODD[(sum(map(ord, name)) + turn * 3) % len(ODD)]
            changed = copy.deepcopy(content)
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            parent[place[-1]] = odd
            yield Damage(f"{name} is {odd!r}"[:60], write(changed).encode())


def _places(content: Any, depth: int = 4) -> Iterator[tuple[Any, ...]]:
    if depth == 0:
        return
    if isinstance(content, dict):
        inner = content.items()
    elif isinstance(content, list):
        inner = list(enumerate(content))[:1]
    else:
        return
    for key, value in inner:
        yield (key,)
        for rest in _places(value, depth - 1):
            yield (key, *rest)


def _lines(whole: bytes) -> Iterator[Damage]:
    lines = whole.decode().splitlines()
    for number in {0, len(lines) // 2, len(lines) - 1} if lines else ():
        for text in [
            "",
            "[]",
            "[1, 2]",
            "null",
            "{}",
            '{"step": "x"}',
            '{"step": [1]}',
            "{",
            "\x00",
        ]:
            changed = [*lines[:number], text, *lines[number + 1 :]]
            yield Damage(f"line {number + 1} is {text!r}", ("\n".join(changed) + "\n").encode())
    for damage in _fields(json.loads(lines[-1]), json.dumps, 30, "last line: ") if lines else ():
        assert damage.content is not None
        changed = [*lines[:-1], damage.content.decode()]
        yield Damage(damage.how, ("\n".join(changed) + "\n").encode())
