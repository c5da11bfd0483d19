"""`spadelens explain` on texts and tables, from the command to the report."""

from __future__ import annotations

import csv
import json
import math
import shlex
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from spadelens import attribute, extract_trace, load_model, row_sample, text_sample
from spadelens.cli.main import main
from spadelens.errors import InputError
from spadelens.models import Encoding, LoadedTable, LoadedText
from spadelens.reports.html import render_report
from spadelens.reports.units import MOST_BARS, unit_context
from spadelens.tasks.subjects import TextSubject, show

SCHEMA = json.loads((resources.files("spadelens") / "reports" / "report.schema.json").read_text(encoding="utf-8"))
ATTACK = "<script>alert(1)</script>\"'&"
TEXT_MODEL = """
import torch
from torch import nn
from spadelens.models import Encoding
CLASS_NAMES = ("bad", "good")
class Words:
    mask_id = 1
    def encode(self, text):
        words = text.split()
        ids = [0, *(2 + sum(map(ord, word)) % 28 for word in words)]
        shown = ("[CLS]", *(word if not number else f" {word}" for number, word in enumerate(words)))
        return Encoding(torch.tensor(ids), shown, (True, *(False,) * len(words)))
TOKENIZER = Words()
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.mix, self.out = nn.Embedding(30, 8), nn.Linear(8, 16), nn.Linear(16, 2)
    def forward(self, ids):
        return self.out(torch.relu(self.mix(self.words(ids))).mean(1))
def build():
    torch.manual_seed(0)
    return Net()
"""
TABLE_MODEL = """
import torch
from torch import nn
FEATURE_NAMES = ["age", "<b>income</b>", "debt"]
MEAN, STD = [40.0, 3000.0, 10.0], [10.0, 1000.0, 5.0]
BACKGROUND = [[30.0, 2000.0, 5.0], [50.0, 4000.0, 15.0], [45.0, 2500.0, 8.0]]
CLASS_NAMES = ["low", "middle", "high"]
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))
"""


class Page(HTMLParser):
    """Elements and words of a page; fails where tags do not balance."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in {"br", "meta", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))  # type: ignore[arg-type]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"script", "style"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def find(self, tag: str, class_name: str) -> list[dict[str, str]]:
        return [found for name, found in self.elements if name == tag and class_name in found.get("class", "").split()]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.py").write_text(TEXT_MODEL)
    Path("table.py").write_text(TABLE_MODEL)
    Path("reviews.txt").write_text(f"such a fine day\n\nso {ATTACK} it goes on and on\n", encoding="utf-8")
    Path("rows.csv").write_text("debt,age,<b>income</b>,id\n12.5,30,2000.1,7\n-1,60,5e3,8\n")
    return tmp_path


def run(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert caught.value.code == code


def explain(*words: object) -> tuple[dict[str, Any], Page]:
    run("explain", *words, "--out", "out", "--device", "cpu")
    report = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, SCHEMA)
    return report, Page(Path("out/report.html").read_text(encoding="utf-8"))


def test_texts(capsys: pytest.CaptureFixture[str]) -> None:
    report, page = explain("reviews.txt", "--model", "text.py:build")
    assert report["kind"] == "text"
    assert report["model"] | {"input_size": None, "mean": None, "std": None} == report["model"]
    settings = report["settings"]
    assert (settings["method"], settings["reduction"]) == ("integrated_gradients", "sum")
    assert (settings["preset"], settings["augmentation"], settings["num_views"]) == ("balanced", "tokens", 32)
    first, second = report["samples"]
    assert (first["file"], first["name"], second["file"]) == ("reviews.txt:1", "reviews-1", "reviews.txt:3")
    assert first["files"] == {"maps": "reviews-1/maps.csv", "trace": "reviews-1/trace.safetensors"}
    units = first["map_values"]
    assert [unit["name"] for unit in units] == ["[CLS]", "such", " a", " fine", " day"]
    assert [unit["is_special"] for unit in units] == [True, False, False, False, False]
    assert all(
        abs(unit[side]["signed"]) <= unit[side]["absolute"] + 1e-6 for unit in units for side in ("original", "trace")
    )
    carried = sum(sample["finding"]["is_carried"] for sample in report["samples"])
    assert f"2 texts: a small set of words carries {carried}" in page.text
    for sample in report["samples"]:
        assert sample["finding"]["grounds"] in page.text
        assert sample["finding"]["box_px"] is sample["finding"]["center"] is None
        assert len(sample["finding"]["values"]) == len(sample["map_values"])
    assert ATTACK.replace("  ", " ") in page.text
    assert len(page.find("article", "")) == 0
    assert len([1 for tag, _ in page.elements if tag == "script"]) == 1
    assert len(page.find("span", "special")) == 2 * 3
    assert "Table of all 5 tokens" in page.text
    assert "photo" not in page.text
    assert "sets of as many words" in capsys.readouterr().out


def test_maps_are_those_of_attribute() -> None:
    report, _ = explain("reviews.txt:1", "--model", "text.py:build")
    (found,) = report["samples"]
    loaded = load_model("text.py:build", "cpu")
    assert isinstance(loaded, LoadedText)
    sample = text_sample(loaded, "such a fine day")
    trace = extract_trace(sample.model, sample.values)
    for side, model in (("original", sample.model), ("trace", trace)):
        heatmap = attribute(model, sample.values, "integrated_gradients", reduction="sum")
        assert [unit[side]["signed"] for unit in found["map_values"]] == pytest.approx(heatmap.values.tolist())
        absolute = heatmap.attribution.abs().sum(-1).tolist()
        assert [unit[side]["absolute"] for unit in found["map_values"]] == pytest.approx(absolute)
    with Path("out/reviews-1/maps.csv").open(encoding="utf-8", newline="") as opened:
        lines = list(csv.DictReader(opened))
    assert [line["name"] for line in lines] == ["[CLS]", "such", " a", " fine", " day"]
    assert [float(line["trace"]) for line in lines] == [unit["trace"]["signed"] for unit in found["map_values"]]
    assert [line["special"] for line in lines] == ["1", "0", "0", "0", "0"]


@pytest.mark.parametrize(
    ("text", "tokens", "shown"),
    [
        ("So good", ("so", "good"), [" so", " good"]),
        ("So good", ("so", " good"), ["so", " good"]),
        ("So", ("S", "o"), ["S", "o"]),
        ("\u6211\u7231", ("\u6211", "\u7231"), ["\u6211", "\u7231"]),
    ],
)
def test_words_without_spaces_are_kept_apart(text: str, tokens: tuple[str, ...], shown: list[str]) -> None:
    loaded = load_model("text.py:build", "cpu")
    encoding = Encoding(torch.tensor([0, 5, 9]), ("[CLS]", *tokens), (True, False, False))
    found = show(loaded, TextSubject("a", "a.txt:1", text, encoding), "tokens")
    assert [unit.name for unit in found.units] == ["[CLS]", *shown]


@pytest.mark.parametrize("text", [("such", "a fine day"), ["such", "a fine day"], None, 7, b"such"])
def test_what_is_not_one_text_is_refused(text: Any) -> None:
    with pytest.raises(InputError, match=r"as a text: expected a string\. A model of sentence pairs"):
        text_sample(load_model("text.py:build", "cpu"), text)


def test_rows(capsys: pytest.CaptureFixture[str]) -> None:
    report, page = explain("rows.csv", "--model", "table.py:build")
    assert "Ignored columns, which the model does not use: id" in capsys.readouterr().err
    assert report["kind"] == "row"
    assert report["model"]["mean"] == [40.0, 3000.0, 10.0]
    settings = report["settings"]
    assert (settings["augmentation"], settings["num_views"], settings["reduction"]) == ("bootstrap", 64, "sum")
    first, second = report["samples"]
    assert [(unit["name"], unit["value"]) for unit in first["map_values"]] == [
        ("age", 30.0),
        ("<b>income</b>", 2000.1),
        ("debt", 12.5),
    ]
    assert second["file"] == "rows.csv:3"
    loaded = load_model("table.py:build", "cpu")
    assert isinstance(loaded, LoadedTable)
    sample = row_sample(loaded, [30.0, 2000.1, 12.5])
    expected = attribute(sample.model, sample.values, "integrated_gradients", reduction="sum").values
    assert [unit["original"]["signed"] for unit in first["map_values"]] == pytest.approx(expected.tolist(), rel=1e-4)
    assert len(page.find("span", "both")) == 2 * 3 * 2
    assert "<b>income</b>" in page.text
    assert not [1 for tag, _ in page.elements if tag == "b" and "income" in _]
    assert "Mean40.00, 3,000, 10.00" in page.text


def test_the_command_in_the_report_makes_the_same_report_again() -> None:
    first, _ = explain("rows.csv:3", "--model", "table.py:build", "--augmentation", "noise:std=0.5", "--seed", "4")
    run(*shlex.split(first["command"])[1:])
    again = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert again["command"] == first["command"]
    assert again["samples"][0]["map_values"] == first["samples"][0]["map_values"]
    assert again["settings"] == first["settings"]


def test_gradients_have_no_sign() -> None:
    report, page = explain("reviews.txt:1", "--model", "text.py:build", "--method", "saliency", "--preset", "ensemble")
    assert report["settings"]["reduction"] == "sum_abs"
    assert len(report["samples"]) == 1
    assert page.find("span", "against") == []
    assert "how strongly the score depends on it" in page.text
    assert page.find("nav", "index") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["reviews.txt", "--model", "table.py:build"],
            "expects rows of a table (.csv), but 'reviews.txt:1' is a file of texts (.txt)",
        ),
        (["rows.csv", "--model", "demo"], "expects photos, but 'rows.csv:2' is a file of rows of a table (.csv)"),
        (["rows.csv", "--model", "table.py:build", "--blur", "0.1"], "--blur is for photos"),
        (["rows.csv", "--model", "table.py:build", "--augmentation", "tokens"], "expects [tokens, features]"),
        (["reviews.txt", "--model", "text.py:build", "--augmentation", "paper"], "expects [C, H, W]"),
        (["reviews.txt", "--model", "text.py:build", "--augmentation", "bootstrap"], "no rows to draw from"),
        (["reviews.txt", "--model", "text.py:build", "--target", "ugly"], "Unknown class 'ugly'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("explain", *words, "--out", "out", code=2)
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in error
    assert not Path("out").exists()


def make_unit(
    name: str, dense: float, sparse: float, special: bool = False, value: float | None = None
) -> dict[str, Any]:
    maps = {side: {"signed": x, "absolute": abs(x)} for side, x in (("original", dense), ("trace", sparse))}
    return {"name": name, "is_special": special, "is_unknown": False, "value": value, **maps}


def context_of(units: list[dict[str, Any]], kind: str, is_signed: bool = True) -> dict[str, Any]:
    finding = {"is_carried": False, "units": [0], "values": [unit["original"]["signed"] for unit in units]}
    return unit_context({"map_values": units, "finding": finding}, kind, is_signed)


def test_each_map_is_scaled_by_its_largest_value_that_is_not_special() -> None:
    units = [make_unit("[CLS]", 9.0, -9.0, special=True), make_unit("a", 2.0, 0.0), make_unit("  b", -1.0, -0.5)]
    shown = context_of(units, "text")["units"]
    assert [unit.strengths["original"] for unit in shown] == [1.0, 1.0, -0.5]
    assert [unit.strengths["trace"] for unit in shown] == [-1.0, 0.0, -1.0]
    assert [unit.role("trace") for unit in shown] == ["against", "neutral", "against"]
    assert (shown[2].before, shown[2].text) == ("  ", "b")
    absolute = context_of(units, "text", is_signed=False)["units"]
    assert [unit.strengths["trace"] for unit in absolute] == [1.0, 0.0, 1.0]
    zero = context_of([make_unit("a", 0.0, 0.0)], "text")["units"]
    assert zero[0].role("original") == "neutral"
    alone = context_of([make_unit("[CLS]", 2.0, 1.0, special=True)], "text")
    assert alone["units"][0].strengths == {"original": 1.0, "trace": 1.0, "shown": 1.0}
    assert context_of([make_unit("", 1.0, 1.0)], "text")["units"][0].text == "·"


def test_the_largest_features_come_first_and_the_rest_is_in_the_table() -> None:
    units = [make_unit(f"f{i}", math.sin(i), math.cos(i), value=float(i)) for i in range(MOST_BARS + 5)]
    found = context_of(units, "row")
    sizes = [max(abs(value) for value in unit.strengths.values()) for unit in found["bars"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found["bars"]) == MOST_BARS
    assert len(found["units"]) == MOST_BARS + 5


def test_bars_reach_to_the_side_of_their_sign() -> None:
    report, _ = explain("rows.csv:2", "--model", "table.py:build")
    units = report["samples"][0]["map_values"]
    for unit, value in zip(units, (4.0, -1.0, 0.0), strict=True):
        unit["original"]["signed"] = value
    for unit in units:
        unit["trace"]["signed"] = 0.0
    report["samples"][0]["maps"]["trace"]["is_zero"] = True
    page = Page(render_report(report, {}))
    is_carried = report["samples"][0]["finding"]["is_carried"]
    assert ("Framed: what the prediction rests on." in page.text) == is_carried
    report["samples"][0]["finding"]["is_carried"] = not is_carried
    assert ("Framed: what" in Page(render_report(report, {})).text) == (not is_carried)
    bars = [
        found["style"] for tag, found in page.elements if tag == "span" and found.get("style", "").startswith("left")
    ]
    assert bars == [
        "left: 50.00%; width: 50.00%",
        "left: 50.00%; width: 0.00%",
        "left: 37.50%; width: 12.50%",
        "left: 50.00%; width: 0.00%",
        "left: 50.00%; width: 0.00%",
        "left: 50.00%; width: 0.00%",
    ]
    assert "According to this method, no feature affects" in page.text
    assert torch.is_grad_enabled()
