"""What a notebook is given to show: its texts and the pictures in it."""

import base64
import io
from html.parser import HTMLParser
from typing import Any

from PIL import Image

MOST_BYTES = 30_000
_VOID = {"img", "br"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[Image.Image] = []
        self.texts: list[str] = []
        self.styles: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert set(named) <= {"style", "src", "alt", "title"}, named
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        if named.get("style"):
            self.styles.append((tag, str(named["style"])))
        if tag == "img":
            kind, _, content = str(named["src"]).partition(";base64,")
            assert kind in ("data:image/png", "data:image/jpeg")
            picture = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
            picture.load()
            assert picture.format == kind.rpartition("/")[2].upper()
            self.pictures.append(picture)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


def shown(result: Any) -> _Page:
    """What `result` shows in a notebook, of which this checks that it is small, closed and free of scripts."""
    content = result._repr_html_()
    assert len(content.encode()) < MOST_BYTES
    page = _Page()
    page.feed(content)
    page.close()
    assert page.open == []
    assert set(page.tags) <= {
        *("div", "span", "b", "img", "figure", "figcaption"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert len(repr(result)) < 300
    assert "\n" not in repr(result)
    return page
