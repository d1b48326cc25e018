"""Pieces of an HTML page. Jinja escapes what is given as text; what is made here is `Markup`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

UNKNOWN = "–"

TEMPLATES = Environment(
    loader=PackageLoader("dashboards"), autoescape=True, undefined=StrictUndefined
)


def element(tag: str, *content: object, **attributes: str) -> Markup:
    """Make `<tag>content</tag>`; `class_` is the attribute `class`."""
    given = Markup().join(
        Markup(' {}="{}"').format(name.rstrip("_"), value) for name, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(tag, given, Markup().join(map(escape, content)))


def code(text: object) -> Markup:
    """Set a path, a command or a setting in a fixed width."""
    return element("code", str(text))


def identifier(candidate: str) -> Markup:
    """Keep a candidate's id on one line."""
    return element("code", candidate, class_="id")


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()
) -> Markup:
    """Make a table whose rows begin with a heading of their own.

    Args:
        headings: the headings of the columns; a table has no head where all are empty.
        rows: as many cells in each row as there are columns.
        numbers: the headings of the columns that are aligned to the right.
    """
    return _pieces().table(headings, rows, numbers)


def picture(png: Path, caption: str) -> Markup:
    """Make a figure that holds the picture itself."""
    return _pieces().picture(base64.b64encode(png.read_bytes()).decode(), caption)


def page(title: str, body: Iterable[Markup]) -> str:
    """Make the whole page."""
    return TEMPLATES.get_template("report.html").render(title=title, body=body)


def _pieces() -> Any:
    return TEMPLATES.get_template("pieces.html").module
