"""The report of a run as one self-contained HTML file: no network access, other files or JavaScript needed."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from spadelens.errors import InputError
from spadelens.finding.coverings import WORDS
from spadelens.finding.sentence import REGION_NOUNS, percent
from spadelens.pictures import photo_bytes
from spadelens.reports.finding import FindingPictures
from spadelens.reports.units import UNIT_NOUNS, unit_context

if TYPE_CHECKING:
    from jinja2 import Environment
    from torch import Tensor

_JPEG = b"\xff\xd8\xff"
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "png", _JPEG: "jpeg"}
_PICTURES = (
    "photo",
    "original_heatmap",
    "trace_heatmap",
    "original_overlay",
    "trace_overlay",
    "believed_heatmap",
    "believed_overlay",
)
_MAX_PIXELATED_PX = 160
_THUMBNAIL_PX, _THUMBNAIL_QUALITY = 128, 80
_MAX_TICKS = 5
_SMALLEST_PLAIN = 1e-3
_LARGEST_PLAIN = 1e4
_SPACE = "\N{NO-BREAK SPACE}"
_CRITERIA = {
    "probability": "that keeps at least {} of the original model’s probability of the explained class",
    "prediction": "that keeps the prediction",
    "agreement": "that agrees with the original model on at least {} of the held-out views",
    "insertion": "whose saliency map reaches at least {} of the original model’s insertion score",
}
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class PhotoPictures:
    """The pictures of one photo, each the bytes of a PNG or JPEG file, all of one size in pixels.

    Attributes:
        photo: The photo as the model sees it, resized and cropped.
        original_heatmap: The map on the original model.
        trace_heatmap: The map on the trace.
        original_overlay: The map on the original model, over the photo.
        trace_overlay: The map on the trace, over the photo.
        believed_heatmap: The map that the finding believes.
        believed_overlay: The same over the photo.
        finding: The pictures of the finding.
        others: Name -> map of another method, over the photo.
        contrast: What speaks for either of two classes, over the photo; None if none are compared.
        grid: The map that the finding believes at low resolution, in percent of its largest value, uint8 `[rows,
            columns]`, for the pointer to read off.
    """

    photo: bytes
    original_heatmap: bytes
    trace_heatmap: bytes
    original_overlay: bytes
    trace_overlay: bytes
    believed_heatmap: bytes
    believed_overlay: bytes
    finding: FindingPictures
    others: Mapping[str, bytes]
    contrast: bytes | None = None
    grid: Tensor | None = None


@dataclass(frozen=True)
class PagePicture:
    """A picture that is embedded in the page."""

    url: str
    width_px: int
    height_px: int

    @property
    def is_pixelated(self) -> bool:
        """Whether its pixels should stay visible when it is enlarged."""
        return self.width_px <= _MAX_PIXELATED_PX


@dataclass(frozen=True)
class _ErrorAxis:
    """A logarithmic axis from 10^low to 10^high."""

    low: int
    high: int

    @classmethod
    def over(cls, layers: list[Mapping[str, Any]]) -> _ErrorAxis:
        """Return the axis of whole decades that holds every error of the layers."""
        errors = [layer[field] for layer in layers for field in ("error", "held_out_error")]
        decades = [math.log10(error) for error in errors if error is not None and error > 0 and math.isfinite(error)]
        if not decades:
            return cls(-3, 0)
        low, high = math.floor(min(decades)), math.ceil(max(decades))
        return cls(low, max(high, low + 1))

    def position(self, error: float | None) -> float | None:
        """Return where an error lies, in percent of the axis; errors beyond an end, such as 0, lie on it."""
        if error is None or math.isnan(error):
            return None
        decade = math.log10(error) if error > 0 else -math.inf
        return 100 * (min(max(decade, self.low), self.high) - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Where each decade lies, in percent, and its label, which is empty where there is no room for it."""
        step = math.ceil((self.high - self.low) / (_MAX_TICKS - 1))
        decades = range(self.low, self.high + 1)
        return [
            (100 * (decade - self.low) / (self.high - self.low), "" if (self.high - decade) % step else _power(decade))
            for decade in decades
        ]


def render_report(report: Mapping[str, Any], pictures: Mapping[str, PhotoPictures]) -> str:
    """Return a report as one HTML page.

    All text of the report is escaped, and the page's content security policy only allows the page's own script.

    Args:
        report: The report, as described by `report.schema.json`.
        pictures: Name of the photo in the report -> its pictures; empty for texts and rows.

    Returns:
        The page, to be written as UTF-8.

    Raises:
        InputError: A photo has no pictures, or a picture is not a PNG file.
    """
    kind = report["kind"]
    if kind == "photo":
        missing = [sample["name"] for sample in report["samples"] if sample["name"] not in pictures]
        if missing:
            raise InputError(
                f"Cannot render the report: expected pictures of every photo, but there are none for {missing}."
            )
        samples = [_photo_context(sample, pictures[sample["name"]]) for sample in report["samples"]]
    else:
        is_signed = report["settings"]["reduction"] == "sum"
        samples = [{**_sample_context(sample), **unit_context(sample, kind, is_signed)} for sample in report["samples"]]
    return render_page(
        "report.html.j2", report, samples, noun=kind, unit_noun=UNIT_NOUNS[kind], region_noun=REGION_NOUNS[kind]
    )


def render_page(template: str, report: Mapping[str, Any], photos: Sequence[Mapping[str, Any]], **others: Any) -> str:
    """Return a page of `template`, which extends `page.html.j2`.

    Args:
        template: The name of the template.
        report: The report.
        photos: What the template shows of each photo.
        others: What else it shows.
    """
    # The template marks these two as safe, being ours; everything else that reaches the page is escaped.
    script = _read("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment()
        .get_template(template)
        .render(
            report=report,
            photos=photos,
            created=datetime.fromisoformat(report["created"].replace("Z", "+00:00")),
            style=_read("report.css"),
            script=script,
            script_digest=digest,
            **others,
        )
    )


def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _format_percent,
        "whole_percent": percent,
        "covered": WORDS.__getitem__,
        "short": _format_short,
        "at_most": lambda text: text if text.startswith("<") else f"≤{_SPACE}{text}",
        "duration": _format_duration,
    }
    return environment


def _read(name: str) -> str:
    return (resources.files("spadelens.reports") / "templates" / name).read_text(encoding="utf-8")


def _photo_context(photo: Mapping[str, Any], pictures: PhotoPictures) -> dict[str, Any]:
    """Return what the template shows of a photo: its report, its pictures and what follows from them."""
    files = {name: _compressed(getattr(pictures, name)) for name in _PICTURES}
    files |= {name: getattr(pictures.finding, name) for name in ("without", "alone")}
    return {
        **_sample_context(photo),
        "pictures": {name: page_picture(f"{name} of {photo['name']!r}", data) for name, data in files.items()},
        "others": {name: page_picture(f"map by {name}", data) for name, data in pictures.others.items()},
        "contrast": None if pictures.contrast is None else page_picture("contrast", pictures.contrast),
        "grid": None if pictures.grid is None else _described_grid(pictures.grid),
        "outline": pictures.finding.outline,
        "size_px": pictures.finding.size_px,
        "thumbnails": {name: page_thumbnail(files[name]) for name in ("photo", "believed_overlay")},
    }


def _described_grid(grid: Tensor) -> dict[str, Any]:
    rows, columns = grid.shape
    cells = base64.b64encode(bytes(grid.flatten().tolist())).decode()
    return {"rows": rows, "columns": columns, "cells": cells}


def _sample_context(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template shows of a sample of any kind: its report and what follows from it."""
    return {
        "report": sample,
        "is_prediction_explained": sample["explained_class"]["class_index"] == sample["original"]["class_index"],
        "is_mistake": sample["true_class"] is not None
        and sample["true_class"]["class_index"] != sample["original"]["class_index"],
        "classes": compare_classes(sample),
        "curve": _curve(sample),
        "criterion": _criterion(sample),
        "required_probability": _required_probability(sample),
        "num_pruned": sum(layer["outcome"] == "pruned" for layer in sample["layers"]),
        "axis": _ErrorAxis.over(sample["layers"]),
        "name_length": max((len(layer["name"]) for layer in sample["layers"]), default=0),
    }


def page_picture(what: str, data: bytes) -> PagePicture:
    """Return the bytes of a PNG or JPEG file as a picture of the page.

    Raises:
        InputError: The bytes are neither; `what` names the picture in the message.
    """
    from PIL import Image

    kind = next((name for signature, name in _SIGNATURES.items() if data.startswith(signature)), None)
    try:
        if kind is None:
            raise ValueError("unknown signature")
        width_px, height_px = Image.open(io.BytesIO(data)).size
    except (ValueError, OSError) as error:
        raise InputError(
            f"Cannot render the report: the {what} is not a PNG or JPEG file; it starts with {data[:8]!r}."
        ) from error
    return PagePicture(f"data:image/{kind};base64,{base64.b64encode(data).decode()}", width_px, height_px)


def _compressed(data: bytes) -> bytes:
    """Return the bytes of a picture as those of a JPEG file, so that a page with many photos can be mailed."""
    from PIL import Image

    try:
        return data if data.startswith(_JPEG) else photo_bytes(Image.open(io.BytesIO(data)).convert("RGB"))
    except OSError:
        return data  # said by `page_picture`, which knows what it is a picture of


def page_thumbnail(data: bytes) -> PagePicture:
    """Return a small copy of the bytes of a PNG or JPEG file as a picture of the page."""
    from PIL import Image

    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_THUMBNAIL_QUALITY)
    return page_picture("thumbnail", buffer.getvalue())


def compare_classes(photo: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per class in either top list, the original model's first, and the explained class in any case.

    Where a class is not in a side's list, the row has no probability but the last one of the list, as its bound.
    """
    explained = photo["explained_class"]
    names = {ranked["class_index"]: ranked["class_name"] for ranked in photo["original"]["top"] + photo["trace"]["top"]}
    names.setdefault(explained["class_index"], explained["class_name"])
    rows = []
    for index, name in names.items():
        row: dict[str, Any] = {"index": index, "name": name, "is_explained": index == explained["class_index"]}
        for side in ("original", "trace"):
            known = {ranked["class_index"]: ranked["probability"] for ranked in photo[side]["top"]}
            known[explained["class_index"]] = photo[side]["explained_probability"]
            row[side] = {
                "probability": known.get(index),
                "bound": photo[side]["top"][-1]["probability"],
                "is_predicted": index == photo[side]["class_index"],
            }
        rows.append(row)
    return rows


def _curve(photo: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the points of the search in ascending order of sparsity, with their verdicts, the original model first."""
    search = photo["search"]
    if search is None:
        return []
    dense = {
        "sparsity": 0.0,
        "probability": photo["original"]["explained_probability"],
        "kept": None,
        "verdict": "original",
    }
    points = [dense]
    for point in search["points"]:
        verdict = "passed" if point["kept"] >= search["threshold"] else "failed"
        points.append({**point, "verdict": "chosen" if point["error_bound"] == search["chosen_bound"] else verdict})
    return points


def _criterion(photo: Mapping[str, Any]) -> str | None:
    """Return what was asked of a trace in the search, in words."""
    search = photo["search"]
    return None if search is None else _CRITERIA[search["criterion"]].format(_format_percent(search["threshold"]))


def _required_probability(photo: Mapping[str, Any]) -> float | None:
    """Return the probability that a trace had to keep, where that was the criterion."""
    if photo["search"] is None or photo["search"]["criterion"] != "probability":
        return None
    required: float = photo["search"]["threshold"] * photo["original"]["explained_probability"]
    return min(required, 1.0)


def _format_percent(fraction: float) -> str:
    """Return a fraction as percent with one decimal, which never rounds to all or nothing what is neither."""
    text = f"{fraction:.1%}"
    if text == "0.0%" and fraction > 0:
        return "<0.1%"
    return ">99.9%" if text == "100.0%" and fraction < 1 else text


def _format_short(value: float, num_digits: int = 2) -> str:
    """Return a number with two significant digits, or `num_digits`."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    rounded = f"{value:.{num_digits - 1}e}"
    mantissa, _, exponent = rounded.partition("e")
    if _SMALLEST_PLAIN <= abs(float(rounded)) < _LARGEST_PLAIN:
        text = f"{float(rounded):,.{max(num_digits - 1 - int(exponent), 0)}f}"
    else:
        text = f"{mantissa}{_SPACE}×{_SPACE}{_power(int(exponent))}"
    return text.replace("-", "−")


def _format_duration(seconds: float) -> str:
    """Return a duration in the unit that suits it."""
    if 0 < seconds < 1:
        return f"<1{_SPACE}ms" if seconds < 1e-3 else f"{1000 * seconds:.0f}{_SPACE}ms"
    if round(seconds, 1) < 60:
        return f"{seconds:.1f}{_SPACE}s"
    return f"{round(seconds) // 60:,}{_SPACE}min {round(seconds) % 60}{_SPACE}s"


def _power(exponent: int) -> str:
    return "1" if exponent == 0 else "10" + str(exponent).translate(_SUPERSCRIPTS)
