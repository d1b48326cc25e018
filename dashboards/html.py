"""Pieces of an HTML page. What is given as text is escaped; what is made here is `Markup`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

TEMPLATE = Path(__file__).with_name("report.html")
UNKNOWN = "–"


class Markup(str):
    """Text that is HTML already."""


def markup(text: object) -> Markup:
    """Escaped, unless it is HTML already."""
    return text if isinstance(text, Markup) else Markup(escape(str(text)))


def element(tag: str, *content: object, **attributes: str) -> Markup:
    """`<tag>content</tag>`; `class_` is the attribute `class`."""
    given = "".join(
        f' {name.rstrip("_")}="{escape(value)}"' for name, value in attributes.items() if value
    )
    return Markup(f"<{tag}{given}>{''.join(map(markup, content))}</{tag}>")


def code(text: object) -> Markup:
    """A path, a command or a setting."""
    return element("code", text)


def identifier(candidate: str) -> Markup:
    """A candidate's id, on one line."""
    return element("code", candidate, class_="id")


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()
) -> Markup:
    """A table whose rows begin with a heading of their own.

    Args:
        headings: of the columns; none where all are empty.
        rows: as many cells each.
        numbers: headings of the columns that are aligned to the right.
    """
    styles = ["number" if heading in numbers else "" for heading in headings]
    head = Markup()
    if any(headings):
        cells = [element("th", h, class_=s) for h, s in zip(headings, styles, strict=True)]
        head = element("thead", element("tr", *cells))
    body = [
        element(
            "tr",
            element("th", row[0]),
            *(element("td", c, class_=s) for c, s in zip(row[1:], styles[1:], strict=True)),
        )
        for row in rows
    ]
    return element("div", element("table", head, element("tbody", *body)), class_="wide")


def picture(png: Path, caption: str) -> Markup:
    """A figure with the picture inside the page."""
    content = base64.b64encode(png.read_bytes()).decode()
    alt = escape(caption, quote=True)
    image = Markup(f'<img src="data:image/png;base64,{content}" alt="{alt}">')
    return element("figure", image, element("figcaption", caption))


def page(title: str, body: Iterable[Markup]) -> str:
    """The whole page."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title), body="\n".join(body)
    )
