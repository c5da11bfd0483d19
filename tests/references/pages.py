"""A report with everything in it, and its page as a reader's program sees it."""

from __future__ import annotations

import copy
import io
import json
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import jsonschema
from PIL import Image

from spadelens.reports.finding import FindingPictures
from spadelens.reports.html import PhotoPictures, render_report

VOID = {"br", "hr", "img", "input", "link", "meta"}
CELLS = {"dt", "dd", "th", "td", "p", "text"}
SCHEMA = json.loads((resources.files("spadelens") / "reports" / "report.schema.json").read_text(encoding="utf-8"))
SOUNDNESS = {
    "completeness": None,
    "conservation": None,
    "fit": None,
    "gradient_similarity": None,
    "randomized_similarity": 0.125,
    "problems": [],
    "unchecked": [],
}
ATTACK = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """A page as its elements; fails where tags do not balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag
        if tag in CELLS:
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def find(self, tag: str, class_name: str | None = None) -> list[dict[str, str]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (class_name is None or class_name in attributes.get("class", "").split())
        ]


def make_prediction(ranked: list[tuple[int, str, float]], explained: float) -> dict[str, Any]:
    top = [{"class_index": index, "class_name": name, "probability": value} for index, name, value in ranked]
    return {**top[0], "explained_probability": explained, "top": top}


def make_layer(name: str, error: float | None = 0.0123, held_out_error: float | None = 0.045) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "Conv2d",
        "shape": [64, 64, 3, 3],
        "outcome": "pruned",
        "detail": "",
        "sparsity": 0.9712,
        "error": error,
        "held_out_error": held_out_error,
        "seconds": 1.25,
    }


def make_dense_layer(name: str) -> dict[str, Any]:
    kept = {"outcome": "unpruned", "detail": "first layer", "sparsity": 0.0, "seconds": 0.0}
    return {**make_layer(name, error=None, held_out_error=None), **kept}


def make_effect(covering: str, explained: float, answer: tuple[int, str, float]) -> dict[str, Any]:
    index, name, probability = answer
    return {
        "covering": covering,
        "explained_probability": explained,
        "class_index": index,
        "class_name": name,
        "probability": probability,
        "is_changed": index != 281,
    }


def make_finding() -> dict[str, Any]:
    lynx = (287, "lynx", 0.52)
    return {
        "claim": "tabby 71%, rather than tiger cat 14%",
        "grounds": "It rests on the outlined 6% of the photo: without it, the model says lynx.",
        "versus": None,
        "runner_up": {"class_index": 282, "class_name": "tiger cat", "probability": 0.142},
        "area": 0.0625,
        "is_carried": True,
        "is_specific": True,
        "without": [make_effect(name, 0.081, lynx) for name in ("inpaint", "blur", "texture")],
        "alone": [make_effect(name, 0.38, (281, "tabby", 0.38)) for name in ("inpaint", "blur", "texture")],
        "random": {"count": 20, "explained_probability": 0.69, "num_changed": 1},
        "center": make_effect("inpaint", 0.66, (281, "tabby", 0.66)),
        "rival": make_effect("inpaint", 0.59, (281, "tabby", 0.59)),
        "smallest_without": 0.03,
        "smallest_alone": 0.0625,
        "believed": "average",
        "agreeing": ["smoothgrad, trace"],
        "maps": [
            {"name": "average", "score": 1.31, "doubt": None},
            {"name": "smoothgrad, trace", "score": 1.3, "doubt": None},
            {"name": "lrp, original model", "score": 1.02, "doubt": None},
        ],
        "left_out": [{"name": "grad_cam, original model", "reason": "The map is zero everywhere."}],
        "values": None,
        "units": None,
        "box_px": [56, 48, 70, 38],
    }


def make_photo(name: str = "cat") -> dict[str, Any]:
    return {
        "file": f"photos/{name}.jpg",
        "name": name,
        "explained_class": {"class_index": 281, "class_name": "tabby"},
        "true_class": None,
        "finding": make_finding(),
        "original": make_prediction([(281, "tabby", 0.713), (282, "tiger cat", 0.142), (287, "lynx", 0.0123)], 0.713),
        "trace": make_prediction([(281, "tabby", 0.64), (282, "tiger cat", 0.093), (332, "Angora", 0.022)], 0.64),
        "is_prediction_kept": True,
        "status": "kept",
        "sparsity": 0.894,
        "members": [{"sparsity": 0.894, "explained_probability": 0.64, "is_prediction_kept": True}],
        "original_weight": 0.0,
        "maps": {
            "original": {"is_zero": False, "convergence_delta": None, "soundness": copy.deepcopy(SOUNDNESS)},
            "trace": {"is_zero": False, "convergence_delta": None, "soundness": copy.deepcopy(SOUNDNESS)},
        },
        "map_values": None,
        "scores": None,
        "search": None,
        "layers": [make_dense_layer("conv1"), make_layer("layer1.conv1"), make_layer("layer1.conv2", 3.21e-5)],
        "num_views": 1024,
        "num_held_out_views": 64,
        "seconds": {"solve": 21.7, "attribution": 0.81},
        "files": {
            "region": f"{name}/region.png",
            "map": f"{name}/map.png",
            "original_map": f"{name}/original.png",
            "trace_map": f"{name}/trace.png",
            "trace": f"{name}/trace.safetensors",
        },
    }


def make_report() -> dict[str, Any]:
    return {
        "format": "spadelens-report-5",
        "kind": "photo",
        "command": "spadelens explain photos/cat.jpg --model torchvision:resnet50 --out 'my report'",
        "created": "2026-11-21T02:43:43Z",
        "versions": {"spadelens": "0.1.0", "torch": "2.9.1"},
        "device": "cuda:0 NVIDIA H200",
        "model": {
            "spec": "torchvision:resnet50",
            "num_weights": 25502912,
            "input_size": [192, 224],
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "num_classes": 1000,
            "outputs": "classes",
        },
        "settings": {
            "method": "smoothgrad",
            "method_settings": {"num_samples": 25, "baseline": None},
            "reduction": "sum_abs",
            "blur": 0.0,
            "target": None,
            "versus": None,
            "candidates": ["lrp", "grad_cam"],
            "preset": "paper",
            "solver": "sparsegpt",
            "solver_settings": {"damping": 0.01},
            "schedule": "heuristic",
            "layers": None,
            "augmentation": "noise and crops",
            "num_views": 1024,
            "positions_per_column": 0,
            "precision": "float32",
            "seed": 0,
            "batch_size": None,
        },
        "seconds": {"load model": 1.9, "solve": 83.2},
        "samples": [make_photo()],
    }


def make_png(color: str = "teal", size_px: tuple[int, int] = (224, 192)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size_px, color).save(buffer, "PNG")
    return buffer.getvalue()


def make_pictures(size_px: tuple[int, int] = (224, 192)) -> PhotoPictures:
    def picture(color: str) -> bytes:
        return make_png(color, size_px)

    return PhotoPictures(
        photo=picture("red"),
        original_heatmap=picture("green"),
        trace_heatmap=picture("blue"),
        original_overlay=picture("cyan"),
        trace_overlay=picture("pink"),
        believed_heatmap=picture("gray"),
        believed_overlay=picture("gold"),
        finding=FindingPictures("M1 1H5V5H1Z", size_px, picture("navy"), picture("lime")),
        others={"lrp, original model": picture("tan")},
    )


def render(report: dict[str, Any], size_px: tuple[int, int] = (224, 192)) -> str:
    jsonschema.validate(report, SCHEMA)
    return render_report(report, {photo["name"]: make_pictures(size_px) for photo in report["samples"]})


def read(report: dict[str, Any], size_px: tuple[int, int] = (224, 192)) -> Page:
    return Page(render(report, size_px))


def lose_prediction(photo: dict[str, Any]) -> None:
    photo["trace"] = make_prediction([(282, "tiger cat", 0.41), (281, "tabby", 0.3)], 0.3)
    photo["is_prediction_kept"] = False
    photo["status"] = "lost"
