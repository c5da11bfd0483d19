"""The report of a visualization, its pictures and its page."""

import copy
import io
import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from references.visualized import make_settings, run

from spadelens import Trace
from spadelens.errors import InputError
from spadelens.models import LoadedModel
from spadelens.pictures import as_picture
from spadelens.reports.html import page_picture
from spadelens.reports.summary import describe_run
from spadelens.reports.visualize_report import (
    describe_unit,
    draw,
    render,
    summarize_photo,
    summarize_visualizations,
    write_photo,
)
from spadelens.tasks.visualize import Visualized, VisualizeSettings
from spadelens.visualization.objectives import Channel, ClassScore, Difference, Direction, Neuron

SCHEMA = json.loads((resources.files("spadelens") / "reports" / "visualize.schema.json").read_text(encoding="utf-8"))
EXPLAIN = json.loads((resources.files("spadelens") / "reports" / "report.schema.json").read_text(encoding="utf-8"))
ATTACK = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def found(demo: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Visualized:
    return run(demo, make_settings(num_images=2), tmp_path_factory.mktemp("out"))


def test_words(demo: LoadedModel) -> None:
    nameless = LoadedModel("x", demo.model, demo.preprocessing, ())
    assert describe_unit(ClassScore(1), demo) == "ring"
    assert describe_unit(ClassScore(1), nameless) == "class 1"
    assert describe_unit(Channel("a.b", 3), demo) == "channel 3 of a.b"
    assert describe_unit(Neuron("a.b", 3), demo) == "channel 3 of a.b in the center"
    assert describe_unit(Neuron("a.b", 3, (4, 5)), demo) == "channel 3 of a.b at 4, 5"
    assert describe_unit(Difference(ClassScore(1), Channel("a", 0)), demo) == "ring rather than channel 0 of a"
    direction = Direction("a", torch.ones(2))
    assert describe_unit(direction, demo) == direction.spec()


def report_of(loaded: LoadedModel, found: Visualized, settings: VisualizeSettings) -> dict[str, Any]:
    described = describe_run("spadelens visualize", loaded, found.trace.report)
    photos = [summarize_photo(found, loaded)]
    report = summarize_visualizations(described, settings, found.trace.report, {"views": 0.5, "visualize": 2.0}, photos)
    return json.loads(json.dumps(report, allow_nan=False))


def check(report: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(report)] == []


@pytest.fixture
def report(demo: LoadedModel, found: Visualized) -> dict[str, Any]:
    return report_of(demo, found, make_settings(num_images=2))


def test_reports_follow_the_schema(demo: LoadedModel, report: dict[str, Any], tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check(report)
    settings = make_settings(parameterization="fourier:rate=0.1", unit="blocks.2:3 - ring")
    other = report_of(demo, run(demo, settings, tmp_path), settings)
    check(other)
    assert other["settings"]["unit"] == "blocks.2:3 - ring"
    assert other["photos"][0]["versus_class"] is None
    assert other["settings"]["parameterization"] == "fourier:rate=0.1"
    assert other["photos"][0]["unit"] == {
        "spec": "blocks.2:3 - class:1",
        "words": "channel 3 of blocks.2 rather than ring",
        "is_class": False,
    }
    for part in (report, report["settings"], report["photos"][0], report["photos"][0]["responses"]["original"]):
        for name in list(part):
            if part is report["settings"] and name not in SCHEMA["$defs"]["settings"]["required"]:
                continue
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


def test_the_schema_describes_every_field() -> None:
    def missing(schema: Any, path: str) -> list[str]:
        found: list[str] = []
        for key in ("properties", "$defs"):
            for name, field in schema.get(key, {}).items():
                target = SCHEMA["$defs"][field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else {}
                if key == "properties" and "description" not in field and "description" not in target:
                    found.append(f"{path}/{name}")
                found += missing(field, f"{path}/{name}")
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict) and not {"description", "$ref"} & set(schema[key]):
                found.append(f"{path}/{key}")
        return found

    assert missing(SCHEMA, "") == []
    for name in ("fraction", "class_index", "class_name", "seconds", "model", "ranked_class", "prediction"):
        assert SCHEMA["$defs"][name] == EXPLAIN["$defs"][name]  # both reports say the same in the same words
    for name in ("versions", "device", "command", "created", "seconds"):
        assert SCHEMA["properties"][name] == EXPLAIN["properties"][name]


def test_what_the_report_says(demo: LoadedModel, found: Visualized, report: dict[str, Any]) -> None:
    photo, trace = report["photos"][0], found.trace.report
    assert report["format"] == "spadelens-visualize-1"
    assert report["settings"]["num_steps"] == 4
    assert report["settings"]["schedule"] == "late:0.5@0.7"
    assert report["settings"]["transformations"]["scale"] == [1.3, 2.5]
    assert photo["unit"]["words"] == demo.class_name(trace.original_prediction.class_index)
    assert photo["explained_class"]["class_index"] == trace.original_prediction.class_index
    assert photo["original"]["probability"] == trace.original_prediction.probability
    assert photo["trace"]["class_index"] == trace.trace_prediction.class_index
    assert photo["num_layers_pruned"] == len(trace.pruned_layers)
    assert photo["num_layers"] == len(trace.layers)
    assert photo["responses"] == found.responses
    assert photo["files"]["trace_image"] == "a b/trace.png"
    assert photo["seconds"].keys() == trace.seconds.keys() | {"visualize"}


def test_pictures_are_the_images() -> None:
    image = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    pixels = np.asarray(as_picture(image))
    assert np.abs(pixels / 255 - image.movedim(0, -1).numpy()).max() <= 0.5 / 255 + 1e-6
    opacity = torch.rand(5, 7, generator=torch.Generator().manual_seed(1))
    expected = (opacity * image + (1 - opacity) * 0.5).movedim(0, -1).numpy()
    assert np.abs(np.asarray(as_picture(image, opacity)) / 255 - expected).max() <= 0.5 / 255 + 1e-6
    grey = np.asarray(as_picture(image[:1]))
    assert grey.shape == (5, 7, 3)
    assert (grey == grey[..., :1]).all()


def test_files(demo: LoadedModel, found: Visualized, tmp_path: Path) -> None:
    pictures = draw(found, make_settings(num_images=2))
    write_photo(tmp_path / "a b", found, pictures)
    assert sorted(path.name for path in (tmp_path / "a b").iterdir()) == [
        "original.png",
        "trace.png",
        "trace.safetensors",
    ]
    for name, one in (("original", found.original), ("trace", found.pruned)):
        pixels = np.asarray(Image.open(tmp_path / "a b" / f"{name}.png"))
        assert pixels.shape == (448, 2 * 448, 3)  # both images, side by side
        expected = [np.asarray(as_picture(i, o)) for i, o in zip(one.images, one.opacity, strict=True)]
        assert np.array_equal(pixels[::7, ::7], np.concatenate(expected, axis=1))
    assert Trace.load(tmp_path / "a b" / "trace.safetensors", demo.model).report == found.trace.report
    plain = draw(found, make_settings(parameterization="fourier", num_images=2))
    assert plain.faded == {}
    assert plain.shown("original") == plain.plain["original"] == pictures.plain["original"]
    with Image.open(io.BytesIO(plain.plain["trace"][1])) as picture:
        assert np.array_equal(np.asarray(picture)[::7, ::7], np.asarray(as_picture(found.pruned.images[1])))


def page(report: dict[str, Any], found: Visualized, parameterization: str = "maco") -> str:
    pictures = draw(found, make_settings(parameterization=parameterization, num_images=2))
    return render(report, {photo["name"]: pictures for photo in report["photos"]})


def words(html: str) -> str:
    import re

    text = re.sub(r"<(script|style)>.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_the_page_says_what_the_report_says(report: dict[str, Any], found: Visualized) -> None:
    photo = report["photos"][0]
    photo["responses"] = {
        "original": {"photo": [12.34], "original": [40.0, 50.0], "trace": [30.0, 31.0]},
        "trace": {"photo": [-0.0456], "original": [1e-5, 3e-5], "trace": [1234.0, 1234.0]},
    }
    before = copy.deepcopy(report)
    text = words(page(report, found))
    assert report == before
    assert f"{photo['unit']['words']} · the trace keeps the prediction" in text
    assert "Original model 12.3 45.0 30.5" in text
    assert "Trace −0.0456 2.00 × 10⁻⁵ 1,230" in text
    for part in (
        report["command"],
        "Target the predicted class",
        "maco",
        "scale = 1.3 to 2.5",
        "Images 2 per model",
        "Steps 4",
        "Schedule late:0.5@0.7",
        "Preset balanced",
        "The images of both models were found in 4 steps from the same starts",
        "mean over 32, and over the 2 images",
        "visualized",
        "64 × 64 px",
    ):
        assert part in text, part
    assert "turned" not in text


def test_a_lost_prediction_is_warned_of(report: dict[str, Any], found: Visualized) -> None:
    assert "does not keep" not in page(report, found)
    photo = report["photos"][0]
    photo["is_prediction_kept"] = False
    photo["status"] = "lost"
    photo["trace"] |= {"class_name": "lynx", "probability": 0.41}
    text = words(page(report, found))
    assert "The trace does not keep the prediction." in text
    assert "the trace predicts lynx instead (41.0%)" in text
    assert "Its images come from a network with a different prediction" in text
    report["photos"].append({**photo, "name": "other"})
    assert "2 photos: the trace keeps the prediction on none" in words(page(report, found))


def test_a_contrast_names_both_classes(demo: LoadedModel, tmp_path: Path) -> None:
    settings = make_settings("Ring", versus="5", num_images=2)  # of a photo of a square
    found = run(demo, settings, tmp_path)
    report = report_of(demo, found, settings)
    check(report)
    assert (report["settings"]["target"], report["settings"]["versus"]) == ("Ring", "5")
    photo = report["photos"][0]
    assert photo["unit"] == {"spec": "class:1 - class:5", "words": "ring rather than star", "is_class": False}
    assert photo["explained_class"] == {"class_index": 1, "class_name": "ring"}
    assert photo["versus_class"] == {"class_index": 5, "class_name": "star"}
    text = words(page(report, found))
    for part in (
        "visualize Ring rather than 5",
        "ring rather than star · the original model predicts square",
        "ring rather than star is favored as strongly as possible",
        "The score of ring minus that of star, before any softmax",
        "Target Ring, compared with 5",
        "ring visualized",
    ):
        assert part in text, part


def test_units_that_are_no_class_are_named_by_their_text(report: dict[str, Any], found: Visualized) -> None:
    report["photos"][0]["unit"] = {"spec": "layer4:3", "words": "channel 3 of layer4", "is_class": False}
    report["settings"]["unit"] = "layer4:3"
    text = words(page(report, found))
    assert "channel 3 of layer4 · the trace keeps" in text
    assert "channel 3 of layer4 (layer4:3) responds" in text
    assert "The value of the unit" in text
    assert " visualized " not in text[text.index("Predictions for the photo") :]


def test_faded_and_plain_images_are_there_until_the_script_hides_one(report: dict[str, Any], found: Visualized) -> None:
    html = page(report, found)
    assert html.count('class="overlay"') == html.count('class="heatmap"') == 4
    assert "Faded</button>" in html
    assert html.count("<img") == 1 + 8
    html = page(report, found, "fourier")
    assert "overlay" not in html[html.index("<article") :]
    assert "<button" not in html[html.index("<article") : html.index("</article>")]
    assert html.count("<img") == 1 + 4
    assert "fade to grey" not in html


def test_the_page_needs_nothing_from_elsewhere_and_escapes_all(report: dict[str, Any], found: Visualized) -> None:
    photo = report["photos"][0]
    photo["file"] = photo["unit"]["words"] = photo["unit"]["spec"] = photo["original"]["class_name"] = ATTACK
    photo["original"]["top"][0]["class_name"] = report["command"] = report["model"]["spec"] = ATTACK
    report["settings"]["unit"] = report["settings"]["parameterization"] = ATTACK
    html = page(report, found)
    assert html.count("<script>") == 1
    assert "alert(1)</script>" not in html
    assert "http://" not in html and "https://" not in html
    assert html.count('src="data:image/png;base64,') == html.count("src=")


def test_missing_pictures_are_refused(report: dict[str, Any], found: Visualized) -> None:
    with pytest.raises(InputError, match=r"pictures of every photo.*\['a b'\]"):
        render(report, {})
    with pytest.raises(InputError, match="not a PNG"):
        page_picture("x", b"GIF89a")
