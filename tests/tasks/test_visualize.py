"""Units visualized for photos: what is computed, what is kept of it, its report and its page."""

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
from torch import Tensor

from spadelens import Trace, extract_trace, load_model, visualize
from spadelens.demo.images import draw_image
from spadelens.errors import InputError, UnknownNameError, VisualizationError
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.presets import find_preset
from spadelens.models import LoadedModel
from spadelens.output.unfinished import NAME, Unfinished, unfinished
from spadelens.reports.html import page_picture
from spadelens.reports.summary import describe_run
from spadelens.reports.visualize_report import (
    as_picture,
    describe_unit,
    draw,
    render,
    summarize_photo,
    summarize_visualizations,
    write_photo,
)
from spadelens.tasks import visualize as visualizing
from spadelens.tasks.subjects import PhotoSubject
from spadelens.tasks.traces import completed
from spadelens.tasks.visualize import Visualized, VisualizeSettings, make_task, visualize_photo
from spadelens.visualization import Ascent
from spadelens.visualization.objectives import Channel, ClassScore, Difference, Direction, Neuron, Objective
from spadelens.visualization.transformations import NO_TRANSFORMATIONS
from spadelens.visualization.visualization import Visualization

SCHEMA = json.loads((resources.files("spadelens") / "reports" / "visualize.schema.json").read_text(encoding="utf-8"))
EXPLAIN = json.loads((resources.files("spadelens") / "reports" / "report.schema.json").read_text(encoding="utf-8"))
ATTACK = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def demo() -> LoadedModel:
    return load_model("demo", "cpu")


def make_settings(unit: str | None = None, parameterization: str = "maco", **changes: Any) -> VisualizeSettings:
    traces = completed(TraceOptions(schedule="late:0.5@0.7", num_views=2, seed=3), find_preset("balanced"), "balanced")
    return VisualizeSettings(traces, unit, Ascent(parameterization, num_steps=4, seed=3, **changes))


def make_subject(label: int = 2, name: str = "a b") -> PhotoSubject:
    return PhotoSubject(name, f"folder/{name}.png", Image.fromarray(draw_image(label, 77).pixels))


def run(
    loaded: LoadedModel, settings: VisualizeSettings, folder: Path, label: int = 2, name: str = "a b"
) -> Visualized:
    task = make_task(loaded, make_subject(label, name), settings.unit)
    return visualize_photo(loaded, task, settings, Unfinished(folder), lambda *_: None)


@pytest.fixture(scope="module")
def found(demo: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Visualized:
    return run(demo, make_settings(num_images=2), tmp_path_factory.mktemp("out"))


def test_it_is_what_the_library_gives(demo: LoadedModel, found: Visualized) -> None:
    sample = demo.preprocessing.to_tensor(make_subject().crop)
    predicted = int(demo.model(sample[None]).argmax())
    trace = extract_trace(demo.model, sample, schedule="late:0.5@0.7", num_views=2, seed=3)
    assert found.task.objective == ClassScore(predicted)
    assert found.trace.weights.keys() == trace.weights.keys()
    assert all(torch.equal(found.trace.weights[name], trace.weights[name]) for name in trace.weights)
    ascent = Ascent("maco", num_steps=4, num_images=2, seed=3)
    for model, one in ((demo.model, found.original), (trace, found.pruned)):
        expected = visualize(model, f"class:{predicted}", demo.preprocessing, ascent)
        assert torch.allclose(one.images, expected.images, atol=1e-3)
        assert one.objective == expected.objective
        assert one.settings == expected.settings


def test_responses_are_of_the_unit_to_what_was_seen(demo: LoadedModel, tmp_path: Path) -> None:
    settings = make_settings("blocks.2:7", transformations=NO_TRANSFORMATIONS)
    found = run(demo, settings, tmp_path)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (demo.preprocessing.mean, demo.preprocessing.std))
    sample = demo.preprocessing.to_tensor(make_subject().crop)
    for name, model in (("original", demo.model), ("trace", found.trace.sparse_copy())):
        features: list[Tensor] = []
        handle = model.get_submodule("blocks.2").register_forward_hook(
            lambda _, __, output, features=features: features.append(output)
        )
        with torch.no_grad():
            for inputs in (sample, (found.original.images[0] - mean) / std, (found.pruned.images[0] - mean) / std):
                model(inputs[None])
        handle.remove()
        expected = [float(each[0, 7].mean()) for each in features]
        answers = found.responses[name]
        assert [answers["photo"][0], answers["original"][0], answers["trace"][0]] == pytest.approx(expected, abs=1e-4)


def test_one_seed_for_all_images_and_models(demo: LoadedModel, found: Visualized) -> None:
    again = visualizing._respond_as_seen(demo.model, found.task, found.original, demo, make_settings(num_images=2))
    assert again == found.responses["original"]["original"]
    assert len(again) == 2
    assert np.isfinite(again).all()


@pytest.mark.parametrize(
    ("unit", "objective", "target"),
    [
        ("ring", ClassScore(1), 1),
        ("7", ClassScore(7), 7),
        ("class:7", ClassScore(7), 7),
        ("blocks.2:3", Channel("blocks.2", 3), None),
        ("blocks.2:3@0,1", Neuron("blocks.2", 3, (0, 1)), None),
        ("star - ring", Difference(ClassScore(5), ClassScore(1)), None),
    ],
)
def test_units(demo: LoadedModel, unit: str, objective: Objective, target: int | None) -> None:
    task = make_task(demo, make_subject(), unit)
    assert task.objective == objective
    predicted = int(demo.model(task.sample[None]).argmax())
    assert task.target == (predicted if target is None else target)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("rng", "Unknown class 'rng'. Did you mean 'ring'"),
        ("10", "There is no class 10: the model has 10"),
        ("blcks.2:3", "Unknown layer 'blcks.2'. Did you mean 'blocks.2'"),
        ("blocks.2", "The unit 'blocks.2' is a whole layer: add one of its channels, such as blocks.2:0."),
        ("blocks.2:999", "There is no unit 999 in layer 'blocks.2'"),
        ("blocks.2:3@99,0", "no position [99, 0]"),
        ("blocks.2:x", "Cannot read the unit"),
        ("class", "Unknown class 'class'"),
    ],
)
def test_units_that_there_are_not(demo: LoadedModel, unit: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_task(demo, make_subject(), unit)
    assert message in str(caught.value)


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


def stages_of(
    loaded: LoadedModel, settings: VisualizeSettings, folder: Path, **task: Any
) -> tuple[Visualized, set[str]]:
    stages: list[str] = []
    made = make_task(loaded, make_subject(**task), settings.unit)
    found = visualize_photo(loaded, made, settings, Unfinished(folder), lambda stage, *_: stages.append(stage))
    return found, set(stages)


def test_what_is_finished_is_not_made_again(demo: LoadedModel, tmp_path: Path) -> None:
    settings = make_settings("ring")
    first, stages = stages_of(demo, settings, tmp_path)
    assert first.trace.report.target == 1
    assert stages == {"views", "solve", "check", "visualize"}
    second, stages = stages_of(demo, settings, tmp_path)
    assert stages == set()
    assert torch.equal(first.pruned.images, second.pruned.images)
    assert first.responses == second.responses
    assert first.trace.report == second.trace.report
    third, stages = stages_of(demo, settings, tmp_path, label=4, name="other")  # the dense image is shared
    assert stages == {"views", "solve", "check", "visualize"}
    assert torch.equal(first.original.images, third.original.images)
    assert not torch.equal(first.pruned.images, third.pruned.images)
    names = sorted(path.name.partition(".")[2] for path in (tmp_path / NAME).iterdir())
    assert names == ["found.pt"] * 3 + ["trace.safetensors"] * 2


def test_the_dense_image_is_computed_once_for_a_unit(
    demo: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[list[Any]] = []
    real = visualizing.visualize_all

    def counted(*arguments: Any) -> list[Visualization]:
        models.append(arguments[0])
        return real(*arguments)

    monkeypatch.setattr(visualizing, "visualize_all", counted)
    for label, unit in ((2, "ring"), (4, "ring"), (4, "star")):
        run(demo, make_settings(unit), tmp_path, label)
    assert [[isinstance(model, Trace) for model in each] for each in models] == [[False, True], [True], [False, True]]


def test_other_settings_begin_anew(demo: LoadedModel, tmp_path: Path) -> None:
    run(demo, make_settings("ring"), tmp_path)
    changed = [make_settings("ring", "fourier"), make_settings("star"), make_settings("ring", num_images=2)]
    assert [stages_of(demo, settings, tmp_path)[1] & {"solve", "visualize"} for settings in changed] == [
        {"visualize"},
        {"solve", "visualize"},  # the trace is of another class
        {"visualize"},
    ]
    traces = completed(TraceOptions(schedule="late:0.6@0.7", num_views=2, seed=3), find_preset("balanced"), "balanced")
    other = VisualizeSettings(traces, "ring", make_settings().ascent)
    assert "solve" in stages_of(demo, other, tmp_path)[1]


def test_damaged_files_are_named(demo: LoadedModel, tmp_path: Path) -> None:
    settings = make_settings("ring")
    run(demo, settings, tmp_path)
    for path in (tmp_path / NAME).glob("*.found.pt"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"Cannot resume from .*found\.pt.*Delete it"):
        run(demo, settings, tmp_path)


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_unfinished_files_go_when_all_is_done_and_stay_after_an_interrupt(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyboardInterrupt), unfinished(out, "done") as files:
        assert tree(tmp_path) == []  # nothing is made before it is needed
        files.path("part", "a").write_text("x")
        raise KeyboardInterrupt
    with pytest.raises(VisualizationError), unfinished(out, "done") as files:
        assert files.path("part", "a").read_text() == "x"
        assert not files.path("part", "b").exists()
        assert files.path("part", "a", "b") != files.path("part", "ab")
        files.path("done", "c").write_text("y")
        raise VisualizationError("x")
    assert len(tree(out)) == 3  # the folder, and what was finished keeps the rest
    with unfinished(out, "done") as files:
        for made_from in (("part", "a"), ("part", "b"), ("done", "c")):
            files.path(*made_from)
        (out / "report.html").write_text("z")
    assert tree(tmp_path) == ["deep", "deep/out", "deep/out/report.html"]


def test_an_error_leaves_nothing_behind_where_nothing_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(VisualizationError), unfinished(out, "done") as files:
        files.path("part", "a").write_text("x")
        raise VisualizationError("x")
    assert tree(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(VisualizationError), unfinished(tmp_path / "mine", "done") as files:
        files.path("part", "a").write_text("x")
        raise VisualizationError("x")
    assert tree(tmp_path) == ["mine"]


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
    settings = make_settings("blocks.2:3 - ring", "fourier:rate=0.1")
    other = report_of(demo, run(demo, settings, tmp_path), settings)
    check(other)
    assert other["settings"]["unit"] == "blocks.2:3 - ring"
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
        "Unit the predicted class",
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


def test_suggestions_come_before_the_trace(demo: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visualizing, "extract_trace", None)
    with pytest.raises(UnknownNameError):
        make_task(demo, make_subject(), "blocks.9:0")
