"""Files of a run as they are read again: checked against what their writer writes, and named in one
line where they are damaged or of another kind.

What a file holds is described by a type (a `TypedDict`, a dataclass, a list of them), which
pydantic checks: every field that is read has its type, and others may stand beside it.
"""

from __future__ import annotations

import json
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import yaml
from annotated_types import Ge, Gt, Le, Predicate

from evo.errors import UserError, first_line

Kind = TypeVar("Kind")

LARGEST = 10**30
"""No count of anything, FLOPs included, is larger."""

Count = Annotated[int, Ge(0), Le(LARGEST)]
Amount = Annotated[float, Ge(0), Le(LARGEST)]
Number = Annotated[float, Ge(-LARGEST), Le(LARGEST)]
Positive = Annotated[float, Gt(0)]
Name = Annotated[str, Predicate(lambda text: text.isprintable() and "/" not in text)]
"""A name that can be a part of a path."""

PathText = Annotated[str, Predicate(lambda text: "\0" not in text)]

DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    RecursionError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    yaml.YAMLError,
)
"""What readers of JSON, YAML, numpy's and Arrow's files raise where one is none, or not whole."""


@contextmanager
def reading(path: Path, remedy: str = "") -> Iterator[None]:
    """Turn what a damaged file makes its reader raise to one line that names it.

    Args:
        path: of the file.
        remedy: what the user can do, a clause.

    Raises:
        UserError: instead of the reader's exception.
    """
    try:
        yield
    except UserError:
        raise
    except DAMAGED as error:
        hint = f": {remedy}" if remedy else ""
        raise UserError(f"{path} is damaged ({_said(error)}){hint}") from error


def read_json(path: Path, kind: type[Kind], remedy: str = "") -> Kind:
    """The content of a JSON file.

    Args:
        path: of the file.
        kind: what it holds.
        remedy: what the user can do where it is damaged, a clause.

    Raises:
        UserError: it is missing or damaged, or holds something else.
    """
    with reading(path, remedy):
        return parse(path.read_bytes(), kind)


def read_json_if_there(path: Path, kind: type[Kind], remedy: str = "") -> Kind | None:
    """As `read_json`; None where there is no file."""
    return read_json(path, kind, remedy) if path.is_file() else None


def parse(text: bytes | str, kind: type[Kind]) -> Kind:
    """JSON of a kind.

    Raises:
        ValueError: it is no JSON, or of another kind.
        RecursionError: it is nested too deep.
    """
    return checked(json.loads(text), kind)


def checked(content: Any, kind: type[Kind]) -> Kind:
    """A value, once it is found to be of a kind; a dictionary keeps what its kind does not name.

    Raises:
        ValueError: it is of another kind; says where.
    """
    checker: Any = _checker(kind)  # type: ignore[arg-type]
    checker.validate_python(content, strict=True)
    return cast(Kind, content)


def built(content: Any, kind: type[Kind]) -> Kind:
    """A dataclass, or several, made of dictionaries whose values have the fields' types.

    Raises:
        ValueError: one has not; says where.
    """
    checker: Any = _checker(kind)  # type: ignore[arg-type]
    return cast(Kind, checker.validate_python(content))


@lru_cache
def _checker(kind: Any) -> Any:
    from pydantic import TypeAdapter  # a tenth of a second, which only readers spend

    return TypeAdapter(kind)


def _said(error: BaseException) -> str:
    """What a reader's error says; of pydantic's the first field that is wrong."""
    if not hasattr(error, "errors"):
        named = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        return f"{named}{first_line(error)}"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
