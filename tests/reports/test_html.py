"""The HTML report: one self-contained, well-formed page that says what the report says."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import jsonschema
import pytest
from PIL import Image

from spadelens.errors import InputError
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


def make_photo(name: str = "cat") -> dict[str, Any]:
    return {
        "file": f"photos/{name}.jpg",
        "name": name,
        "explained_class": {"class_index": 281, "class_name": "tabby"},
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
            "original_map": f"{name}/original.png",
            "trace_map": f"{name}/trace.png",
            "trace": f"{name}/trace.safetensors",
        },
    }


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "format": "spadelens-report-4",
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


def render(report: dict[str, Any], size_px: tuple[int, int] = (224, 192)) -> str:
    jsonschema.validate(report, SCHEMA)
    pictures = PhotoPictures(*(make_png(color, size_px) for color in ("red", "green", "blue", "cyan", "pink")))
    return render_report(report, {photo["name"]: pictures for photo in report["samples"]})


def read(report: dict[str, Any], size_px: tuple[int, int] = (224, 192)) -> Page:
    return Page(render(report, size_px))


def lose_prediction(photo: dict[str, Any]) -> None:
    photo["trace"] = make_prediction([(282, "tiger cat", 0.41), (281, "tabby", 0.3)], 0.3)
    photo["is_prediction_kept"] = False
    photo["status"] = "lost"


def descriptions_missing(schema: Any, path: str = "") -> list[str]:
    """Return every place that describes a value but says nothing about it, $ref followed."""
    missing: list[str] = []
    for key in ("properties", "$defs"):
        for name, field in schema.get(key, {}).items():
            target = SCHEMA["$defs"][field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else {}
            if key == "properties" and "description" not in field and "description" not in target:
                missing.append(f"{path}/{name}")
            missing += descriptions_missing(field, f"{path}/{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict) and not {"description", "$ref"} & set(schema[key]):
            missing.append(f"{path}/{key}")
    return missing


def test_schema_is_valid_closed_and_describes_every_field(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert descriptions_missing(SCHEMA) == []
    jsonschema.validate(report, SCHEMA)
    for part in (report, report["model"], report["settings"], report["samples"][0], report["samples"][0]["original"]):
        for name in list(part):
            value = part.pop(name)
            with pytest.raises(jsonschema.ValidationError, match=f"'{name}' is a required property"):
                jsonschema.validate(report, SCHEMA)
            part[name] = value
        if part is report["settings"]:
            continue  # it lists every field of TraceOptions, so that one can be added in one place
        part["surplus"] = 1
        with pytest.raises(jsonschema.ValidationError, match="surplus"):
            jsonschema.validate(report, SCHEMA)
        del part["surplus"]


def test_page_needs_nothing_from_elsewhere(report: dict[str, Any]) -> None:
    html = render(report)
    page = Page(html)
    assert page.find("img")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.find("img"))
    links = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert all(link.startswith(("./", "#", "data:")) for link in links)
    assert not any("src" in attributes for tag, attributes in page.elements if tag != "img")
    assert [link["rel"] for link in page.find("link")] == ["icon"]
    assert "@import" not in html
    assert "url(" not in html
    assert not re.search(r"https?://", html)


def test_every_picture_has_words_and_its_size(report: dict[str, Any]) -> None:
    images = read(report).find("img")
    assert len(images) == 5
    assert all(image["alt"] and (image["width"], image["height"]) == ("224", "192") for image in images)
    assert "Map for tabby on the trace, over the photo" in [image["alt"] for image in images]
    assert not any("pixelated" in image["class"] for image in images)
    assert all("pixelated" in image["class"] for image in read(report, (64, 64)).find("img"))


def test_both_views_of_a_map_are_there_until_the_script_hides_one(report: dict[str, Any]) -> None:
    page = read(report)
    assert len(page.find("img", "overlay")) == len(page.find("img", "heatmap")) == 2
    assert "class" not in page.find("html")[0]
    style = (resources.files("spadelens") / "reports" / "templates" / "report.css").read_text(encoding="utf-8")
    hiding = [
        line for line in style.splitlines() if "display: none" in line and ("overlay" in line or "heatmap" in line)
    ]
    assert hiding and all(rule.lstrip().startswith(".js") for line in hiding for rule in line.split("{")[0].split(","))


def test_only_the_pages_own_script_may_run(report: dict[str, Any]) -> None:
    html = render(report)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [meta["content"] for meta in Page(html).find("meta") if "content" in meta and "http-equiv" in meta]
    assert f"script-src 'sha256-{digest}';" in policy
    assert "default-src 'none'" in policy


def test_untrusted_text_stays_text(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["file"], photo["name"], photo["explained_class"]["class_name"] = ATTACK + "1", ATTACK + "2", ATTACK + "3"
    for side in ("original", "trace"):
        photo[side]["class_name"] = ATTACK + "4"
        photo[side]["top"][0]["class_name"] = ATTACK + "5"
    photo["layers"] = [make_layer(ATTACK + "6"), {**make_dense_layer("a"), "detail": ATTACK + "7", "kind": ATTACK}]
    photo["scores"] = {
        "region": ATTACK + "8",
        "original": {"auc": 0.5, "pointing_game": True},
        "trace": {"auc": 0.5, "pointing_game": True},
    }
    photo["files"]["original_map"] = "javascript:alert(1)/original.png"
    report["command"], report["device"] = ATTACK + "9", ATTACK
    report["settings"]["target"] = report["settings"]["method_settings"]["a"] = report["model"]["spec"] = ATTACK
    report["versions"][ATTACK] = report["settings"]["solver"] = ATTACK
    report["seconds"][ATTACK] = 1.0
    photo["is_prediction_kept"] = False
    photo["status"] = "lost"
    photo["maps"]["trace"]["is_zero"] = True
    page = read(report)
    assert len(page.find("script")) == 1
    for number in (1, 3, 4, 5, 6, 7, 8, 9):
        assert f"{ATTACK}{number}" in page.text
    assert "javascript%3Aalert%281%29/original.png" in [link.get("href", "")[2:] for link in page.find("a")]
    attributes = {name for _, attributes in page.elements for name in attributes}
    assert not any(name.startswith("on") for name in attributes)


def test_kept_prediction_is_said_without_a_warning(report: dict[str, Any]) -> None:
    page = read(report)
    assert "tabby, 71.3% · the trace keeps the prediction (64.0%)" in page.text
    assert page.find("p", "warning") == page.find("span", "flag") == []


def test_a_trace_that_is_hardly_pruned_does_not_pass_for_one_that_keeps(report: dict[str, Any]) -> None:
    report["samples"][0] |= {"status": "hardly pruned", "sparsity": 0.0007}
    text = read(report).text
    assert "tabby, 71.3% · hardly pruned (0.1%): the trace is nearly the original model" in text
    assert "keeps the prediction" not in text


def test_lost_prediction_is_said_and_warned_of(report: dict[str, Any]) -> None:
    lose_prediction(report["samples"][0])
    page = read(report)
    assert "tabby, 71.3% · the trace predicts tiger cat instead (41.0%)" in page.text
    assert "keeps the prediction" not in page.text
    assert len(page.find("p", "warning")) == 1
    assert "The trace does not keep the prediction." in page.text


def test_explained_class_that_is_not_the_prediction_is_told_apart(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["explained_class"] = {"class_index": 479, "class_name": "car wheel"}
    photo["original"]["explained_probability"], photo["trace"]["explained_probability"] = 0.0102, 0.0004
    page = read(report)
    assert (
        "car wheel, 1.0% · <0.1% in the trace; the prediction is tabby (71.3%), and the trace keeps it (64.0%)"
        in page.text
    )
    assert len(page.find("tr", "explained")) == 1
    lose_prediction(photo)
    photo["trace"]["explained_probability"] = 0.0004
    assert "the original model predicts tabby (71.3%), the trace tiger cat (41.0%)" in read(report).text


@pytest.mark.parametrize(("side", "title"), [("original", "map of the original model"), ("trace", "map of the trace")])
def test_zero_map_is_warned_of(report: dict[str, Any], side: str, title: str) -> None:
    report["samples"][0]["maps"][side]["is_zero"] = True
    page = read(report)
    assert f"The {title} is zero everywhere." in page.text
    assert len(page.find("p", "warning")) == len(page.find("span", "flag")) == len(page.find("div", "zero")) == 1


def test_top_classes_are_aligned_and_bounded_where_unknown(report: dict[str, Any]) -> None:
    page = read(report)
    assert len(page.find("td", "original")) == len(page.find("td", "trace")) == 4
    assert "tabby explained 71.3% 64.0%" in page.text
    assert "lynx 1.2% ≤ 2.2%" in page.text
    assert "Angora ≤ 1.2% 2.2%" in page.text


def test_scores_are_shown_only_where_there_are_any(report: dict[str, Any]) -> None:
    assert "AUC" not in read(report).text
    report["samples"][0]["scores"] = {
        "region": "the planted patch 'heart'",
        "original": {"auc": 0.8123, "pointing_game": False},
        "trace": {"auc": 0.9, "pointing_game": True},
    }
    page = read(report)
    assert "AUC 0.812 pointing game: miss" in page.text
    assert "AUC 0.900 pointing game: hit" in page.text
    assert "against the planted patch 'heart'" in page.text


def test_missing_errors_leave_gaps_and_are_not_zero(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["num_held_out_views"] = 0
    photo["layers"] = [make_dense_layer("a"), make_layer("b", 0.01, None), make_layer("c", None, None)]
    page = read(report)
    assert len(page.find("circle", "seen")) == 1 + 1
    assert page.find("circle", "held-out") == page.find("line", "gap") == []
    assert "none held out" in page.text
    assert "not pruned: first layer – – – –" in page.text
    assert "pruned 97.1% 0.010 – 1.2 s" in page.text


def test_errors_lie_on_a_logarithmic_axis(report: dict[str, Any]) -> None:
    report["samples"][0]["layers"] = [
        make_layer("a", 2e-4, 1e-2),
        make_layer("b", 1e-3, 1.0),
        make_layer("c", 0.0, 0.0),
    ]
    page = read(report)
    (title, *_) = [row["title"] for row in page.find("div", "layer") if "title" in row]
    assert " ".join(title.split()) == (
        "a: Conv2d 64×64×3×3, pruned 97.1%, error 2.0 × 10⁻⁴, held-out error 0.010, 1.2 s"
    )
    assert [circle["cx"] for circle in page.find("circle", "seen")[1:]] == ["7.53%", "25.00%", "0.00%"]
    assert [circle["cx"] for circle in page.find("circle", "held-out")[1:]] == ["50.00%", "100.00%", "0.00%"]
    assert "10⁻⁴ 10⁻³ 10⁻² 10⁻¹ 1" in page.text


@pytest.mark.parametrize("num_layers", [0, 1, 160])
def test_any_number_of_layers(report: dict[str, Any], num_layers: int) -> None:
    report["samples"][0]["layers"] = [make_layer(f"block.{i}.conv", 10.0 ** -(i % 13)) for i in range(num_layers)]
    page = read(report)
    assert len(page.find("rect", "sparsity")) == num_layers + 1
    names = [row["title"].split(":")[0] for row in page.find("div", "layer") if "title" in row]
    assert names == [f"block.{i}.conv" for i in range(num_layers)]
    for ruler in re.findall(r'<div class="layer ruler">.*?</div>', render(report), re.DOTALL):
        assert 2 <= len(re.findall("<text", ruler)) - 3 <= 5


def test_unpruned_layers_show_why(report: dict[str, Any]) -> None:
    outcomes = ["unpruned", "excluded", "not called", "unsupported"]
    report["samples"][0]["layers"] = [{**make_dense_layer(outcome), "outcome": outcome} for outcome in outcomes]
    page = read(report)
    assert page.find("div", "unpruned")[2]["title"] == "not called: Conv2d 64×64×3×3, not called (first layer)"
    assert len(page.find("div", "unpruned")) == len(page.find("tr", "unpruned")) == 4
    shown = ["not pruned", *outcomes[1:]]
    assert all(page.text.count(f"{outcome}: first layer") == 2 for outcome in shown)


def test_several_photos_have_an_index_with_verdicts(report: dict[str, Any]) -> None:
    report["samples"] = [make_photo("a b"), make_photo("c"), make_photo("d")]
    lose_prediction(report["samples"][1])
    report["samples"][2]["maps"]["trace"]["is_zero"] = True
    page = read(report)
    assert "3 photos: the trace keeps the prediction on 2" in page.text
    targets = [link["href"] for link in page.find("a") if link["href"].startswith("#photo")]
    assert [f"#{article['id']}" for article in page.find("article")] == targets == ["#photo-1", "#photo-2", "#photo-3"]
    index = page.text[: page.text.index("photos/a b.jpg")]
    assert index.count("not kept") == index.count("zero map") == 1
    assert len(page.find("img")) == 3 * (5 + 3)
    assert "./a%20b/original.png" in [link["href"] for link in page.find("a")]
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))


def test_one_photo_has_no_index(report: dict[str, Any]) -> None:
    assert read(report).find("nav") == []


def test_every_setting_of_the_run_is_shown(report: dict[str, Any]) -> None:
    page = read(report)
    for words in (
        report["command"],
        "November 21, 2026, 02:43 UTC",
        "25,502,912",
        "224 × 192 px",
        "num_samples = 25",
        "baseline = none",
        "Target the predicted class",
        "Preset paper",
        "Solver sparsegpt",
        "Schedule heuristic",
        "Augmentation noise and crops",
        "Views 1,024",
        "Positions all",
        "Seed 0",
        "Device cuda:0 NVIDIA H200",
        "torch 2.9.1",
        "Wall-clock time: 1 min 25 s",
        "89.4% of 25,502,912",
    ):
        assert words in page.text, words
    assert "Precision" not in page.text
    report["settings"] |= {"target": "lynx", "positions_per_column": 2, "precision": "bfloat16"}
    for words in ("Target lynx", "Positions at most 2 per weight column of a layer", "Precision bfloat16"):
        assert words in read(report).text, words


def make_search(criterion: str = "probability", chosen: float | None = 0.02) -> dict[str, Any]:
    points = [(0.001, 0.1, 0.7, 0.98), (0.02, 0.5, 0.65, 0.91), (0.3, 0.9, 0.2, 0.28)]
    return {
        "criterion": criterion,
        "threshold": 0.9,
        "points": [
            {
                "error_bound": bound,
                "sparsity": sparsity,
                "probability": probability,
                "is_prediction_kept": probability > 0.5,
                "kept": kept,
            }
            for bound, sparsity, probability, kept in points
        ],
        "chosen_bound": chosen,
    }


def test_a_search_is_a_curve_and_a_table(report: dict[str, Any]) -> None:
    assert "Search for the sparsest trace" not in read(report).text
    report["samples"][0]["search"] = make_search()
    page = read(report)
    assert "at least 90.0% of the original model’s probability of the explained class" in page.text
    assert "Probability of tabby against sparsity" in page.text
    drawn = [
        (circle["class"], circle["cx"], circle["cy"])
        for circle in page.find("circle")
        if circle["class"] in {"original", "passed", "failed", "chosen"} and circle["cx"].endswith("%")
    ]
    assert drawn == [
        ("original", "0.00%", "28.70%"),
        ("passed", "10.00%", "30.00%"),
        ("chosen", "50.00%", "35.00%"),
        ("failed", "90.00%", "80.00%"),
    ]
    assert [line["y1"] for line in page.find("line", "required")] == ["4.5", "35.83%"]
    assert len(page.find("line", "step")) == 3
    assert "0.020 50.0% 65.0% kept 0.91 chosen" in page.text
    assert "0.30 90.0% 20.0% lost 0.28 failed" in page.text
    assert "all 3 traces that were tried" in page.text


def test_a_search_that_found_nothing_says_so(report: dict[str, Any]) -> None:
    report["samples"][0]["search"] = make_search(chosen=None)
    page = read(report)
    assert "No trace passed: no layer is pruned." in page.text
    assert len(page.find("circle", "chosen")) == 1  # in the legend
    report["samples"][0]["search"]["points"] = []
    assert "Search for the sparsest trace" in read(report).text


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ("prediction", "the sparsest trace that keeps the prediction."),
        ("agreement", "that agrees with the original model on at least 90.0% of the held-out views."),
        ("insertion", "whose saliency map reaches at least 90.0% of the original model’s insertion score."),
    ],
)
def test_criteria_are_put_in_words(report: dict[str, Any], criterion: str, words: str) -> None:
    report["samples"][0]["search"] = make_search(criterion)
    page = read(report)
    assert words in page.text
    assert page.find("line", "required") == []


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0.0%"), (0.0004, "<0.1%"), (0.7124, "71.2%"), (0.9996, ">99.9%"), (1.0, "100.0%")],
)
def test_percent_never_rounds_to_all_or_nothing(report: dict[str, Any], fraction: float, text: str) -> None:
    report["samples"][0]["sparsity"] = fraction
    assert f"Weights pruned {text} of" in read(report).text


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.0, "0"), (0.0123, "0.012"), (0.00999, "0.010"), (0.996, "1.0"), (12.34, "12"), (3.21e-5, "3.2 × 10⁻⁵")],
)
def test_errors_have_two_significant_digits(report: dict[str, Any], error: float, text: str) -> None:
    report["samples"][0]["layers"] = [make_layer("a", error, None)]
    assert f"pruned 97.1% {text} – 1.2 s" in read(report).text


def test_convergence_delta_is_shown_with_its_sign(report: dict[str, Any]) -> None:
    assert "Convergence" not in read(report).text
    report["samples"][0]["maps"]["trace"]["convergence_delta"] = -0.00041
    assert "Convergence delta trace −4.1 × 10⁻⁴" in read(report).text


def test_checks_of_the_maps(report: dict[str, Any]) -> None:
    text = read(report).text
    assert "Checks of the maps: sound on the original model, sound on the trace" in text
    assert "to the map with random weights in the last layer 0.12 0.12" in text
    assert "doubtful" not in text
    assert "completeness" not in text
    checks = report["samples"][0]["maps"]["trace"]["soundness"]
    checks |= {"completeness": 0.123, "problems": [f"The values miss {ATTACK}."], "unchecked": ["No layer was found."]}
    report["samples"][0]["maps"]["original"]["soundness"]["gradient_similarity"] = -0.5
    text = read(report).text
    assert "sound on the original model, doubtful on the trace" in text
    assert f"The map of the trace is doubtful. The values miss {ATTACK}." in text
    assert "missed by the sum of the values – 12.3 %" in text
    assert "the plain gradient, or input × gradient −0.50 –" in text
    assert "On the trace: No layer was found." in text


def test_report_is_left_as_it_was(report: dict[str, Any]) -> None:
    before = copy.deepcopy(report)
    render(report)
    assert report == before


def test_missing_or_broken_pictures_are_refused(report: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"pictures of every photo.*\['cat'\]"):
        render_report(report, {})
    good = make_png()
    with pytest.raises(InputError, match=r"trace_overlay of 'cat' is not a PNG"):
        render_report(report, {"cat": PhotoPictures(good, good, good, good, b"\xff\xd8\xff JPEG" * 9)})


def test_an_ensemble_says_what_was_averaged(report: dict[str, Any]) -> None:
    photo = report["samples"][0]
    photo["members"] += [
        {"sparsity": 0.71, "explained_probability": 0.66, "is_prediction_kept": True},
        {"sparsity": 0.502, "explained_probability": 0.31, "is_prediction_kept": False},
    ]
    photo["original_weight"] = 1.0
    text = read(report).text
    assert "the mean of the maps of the original model and of 3 traces" in text
    assert "Trace mean of 3 traces and the original model" in text
    assert "71.0% pruned, 66.0%; 50.2% pruned, 31.0% (prediction not kept)" in text
    photo["members"], photo["original_weight"] = photo["members"][:1], 0.0
    assert "the mean of the maps" not in read(report).text


def test_a_blur_is_said(report: dict[str, Any]) -> None:
    assert "blurred" not in read(report).text
    report["settings"]["blur"] = 0.05
    assert "Both are blurred with a Gaussian whose standard deviation is 5.0% of the longer side." in read(report).text
