"""Pieces of HTML: what is given is escaped, once."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

from markupsafe import Markup

from dashboards.html import code, element, page, picture, table

NASTY = '<b>"R&D"</b> $$ ${title}'


class Texts(HTMLParser):
    """The texts of a document, and the tags that hold them."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[str] = []
        self.feed(document)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_text_is_escaped_once() -> None:
    assert code("a < b") == "<code>a &lt; b</code>"
    assert element("p", code("a < b")) == "<p><code>a &lt; b</code></p>"
    assert element("p", "a < b", Markup("<br>"), class_='x"y') == (
        '<p class="x&#34;y">a &lt; b<br></p>'
    )


def test_a_table_holds_what_it_is_given() -> None:
    parsed = Texts(table(("name", "value"), [(NASTY, 1)], numbers=("value",)))
    assert "".join(parsed.texts) == f"namevalue{NASTY}1"
    assert "b" not in parsed.tags
    assert "thead" not in Texts(table(("", ""), [("a", "b")])).tags


def test_a_page_holds_what_it_is_given(tmp_path: Path) -> None:
    png = tmp_path / "picture.png"
    png.write_bytes(b"\x89PNG")
    document = page(NASTY, [element("p", NASTY), picture(png, NASTY)])
    assert Texts(document).texts.count(NASTY) == 3  # title, paragraph, caption
    assert 'src="data:image/png;base64,iVBORw=="' in document
