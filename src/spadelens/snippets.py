"""Pieces of HTML by which results show themselves in a notebook: escaped, with nothing to load, a few kilobytes.

Colors of texts and backgrounds are those of the page, which may be dark.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from spadelens.plain_text import printable

if TYPE_CHECKING:
    from PIL import Image

MOST_TEXT = 200
_MOST_PICTURE_BYTES, _MOST_PX = 15_000, 256  # of all pictures of a result together
_QUALITIES = (85, 60, 35)
_LEAST_SHOWN_PX = 224
_FOR, _AGAINST = "192,57,43", "41,98,178"
_LEAST_SHOWN = 0.02  # of the largest value; fainter ones get no color
_PALETTE = 256


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """Return a text with an ellipsis in place of what goes beyond `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def escaped(text: str, most: int = MOST_TEXT) -> str:
    """Return a text for HTML, shortened."""
    return html.escape(printable(shortened(text, most)))


def block(title: str, *parts: str) -> str:
    """Return a title, which is escaped, above parts, which are HTML."""
    return f"<div><div><b>{escaped(title)}</b></div>{''.join(parts)}</div>"


def line(text: str, most: int = MOST_TEXT) -> str:
    """Return a text on a line of its own, shortened."""
    return f"<div>{escaped(text, most)}</div>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts."""
    head = "".join(f'<th style="text-align:left">{escaped(cell)}</th>' for cell in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escaped(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def pictures(shown: Sequence[Image.Image], captions: Sequence[str]) -> str:
    """Return pictures side by side, each with what it shows, in at most 20 kB in all."""
    most = _MOST_PICTURE_BYTES // max(len(shown), 1)
    return "".join(_picture(one, caption, most) for one, caption in zip(shown, captions, strict=True))


def words(tokens: Sequence[str], values: Sequence[float]) -> str:
    """Return tokens one after the other, those for the class on red and those against it on blue."""
    spans = [
        f'<span title="{value:.3g}"{_background(strength)}>{escaped(token, 40) or "&middot;"}</span>'
        for token, value, strength in zip(tokens, values, _strengths(values), strict=True)
    ]
    return f'<div style="white-space:pre-wrap">{"".join(spans)}</div>'


def bars(names: Sequence[str], values: Sequence[float]) -> str:
    """Return a table with a name, a bar to the left or right of zero, and the value in each row."""
    rows = "".join(
        f'<tr><td style="text-align:left">{escaped(name, 60)}</td><td style="text-align:left">{_bar(strength)}</td>'
        f"<td>{value:.3g}</td></tr>"
        for name, value, strength in zip(names, values, _strengths(values), strict=True)
    )
    return f"<table><tbody>{rows}</tbody></table>"


def _strengths(values: Sequence[float]) -> list[float]:
    largest = max(map(abs, values), default=0.0)
    return [value / largest if largest else 0.0 for value in values]


def _background(strength: float) -> str:
    if abs(strength) < _LEAST_SHOWN:
        return ""
    return f' style="background:rgba({_FOR if strength > 0 else _AGAINST},{0.7 * abs(strength):.2f})"'


def _bar(strength: float) -> str:
    start = 60 + min(60 * strength, 0.0)
    color = _FOR if strength > 0 else _AGAINST
    return (
        f'<div style="width:120px"><div style="margin-left:{start:.0f}px;width:{60 * abs(strength):.0f}px;height:10px;'
        f'background:rgb({color})"></div></div>'
    )


def _picture(picture: Image.Image, caption: str, most_bytes: int) -> str:
    kind, content = compact(picture, most_bytes)
    look = "image-rendering:pixelated" if kind == "png" else ""
    enlarged = max(1, _LEAST_SHOWN_PX // max(picture.size))
    width = min(picture.width, _MOST_PX * 2) * enlarged
    return (
        f'<figure style="display:inline-block;margin:4px"><img alt="{escaped(caption)}" style="width:{width}px;'
        f'{look}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
        f"<figcaption>{escaped(caption)}</figcaption></figure>"
    )


def compact(picture: Image.Image, most_bytes: int) -> tuple[str, bytes]:
    """Return ('png' or 'jpeg', a file of at most `most_bytes`) of a picture, pixel by pixel the same where possible.

    Larger ones lose detail: first pixels beyond 512 in a row, then quality as JPEG, then more pixels.
    """
    from PIL import Image

    side = 2 * _MOST_PX
    while True:
        small = picture.copy()
        small.thumbnail((side, side), Image.Resampling.BOX)
        content = _file(_few_colors(small), "PNG", optimize=True)
        if len(content) <= most_bytes:
            return "png", content
        for quality in _QUALITIES if side <= _MOST_PX else ():
            content = _file(small.convert("RGB"), "JPEG", quality=quality, optimize=True)
            if len(content) <= most_bytes:
                return "jpeg", content
        side = side * 3 // 4
        if side == 0:
            return "png", content


def _few_colors(picture: Image.Image) -> Image.Image:
    """Return the same pixels with a palette if it has few enough colors."""
    import numpy as np
    from PIL import Image

    if picture.mode != "RGB" or picture.getcolors(_PALETTE) is None:
        return picture
    pixels = np.asarray(picture).reshape(-1, 3)
    colors, numbers = np.unique(pixels, axis=0, return_inverse=True)
    indexed = Image.fromarray(numbers.reshape(picture.height, picture.width).astype(np.uint8))
    indexed.putpalette(colors.tobytes())
    return indexed


def _file(picture: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **settings)
    return buffer.getvalue()
