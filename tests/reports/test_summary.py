"""The data of a report, against its schema and against what it says of."""

import datetime
import json
from dataclasses import replace
from importlib import resources
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from spadelens.demo.images import draw_image
from spadelens.extraction.options import TraceOptions
from spadelens.methods.registry import METHODS
from spadelens.models import LoadedModel
from spadelens.photos import Preprocessing
from spadelens.reports.summary import Run, summarize_run, summarize_sample
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.settings import parse_configured
from spadelens.solvers import SparseGPT
from spadelens.tasks.explain import ExplainSettings, Explanation, explain
from spadelens.tasks.subjects import PhotoSubject

SCHEMA = json.loads((resources.files("spadelens") / "reports" / "report.schema.json").read_text(encoding="utf-8"))


def make_settings(method: str = "saliency", **changes: Any) -> ExplainSettings:
    chosen = parse_configured("method", method, METHODS)
    target = changes.pop("target", None)
    options = {
        "preset": "fast",
        "solver": SparseGPT(damping=0.05),
        "schedule": "late:0.5@0.7",
        "augmentation": "noise",
        "num_views": 2,
        "positions_per_column": 3,
        "seed": 5,
    }
    options = TraceOptions(**options | changes)
    return ExplainSettings(chosen, replace(options, schedule=parse_schedule(options.schedule)), target)


@pytest.fixture(scope="module")
def explained(demo: LoadedModel) -> Explanation:
    image = draw_image(2, 77)
    region = torch.from_numpy(np.ascontiguousarray(image.region))
    subject = PhotoSubject("a b", "folder/a b.png", Image.fromarray(image.pixels), region, "the object")
    return explain(demo, subject, make_settings(target="1"), lambda *_: None)


def report_of(loaded: LoadedModel, explanation: Explanation, settings: ExplainSettings) -> dict[str, Any]:
    run = Run("spadelens explain", loaded, settings, explanation.trace.report, {"total": 1.5})
    report = summarize_run(run, [summarize_sample(explanation, loaded)])
    return json.loads(json.dumps(report, allow_nan=False))


def check(report: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(report)] == []


def test_report_follows_its_schema(demo: LoadedModel, explained: Explanation) -> None:
    check(report_of(demo, explained, make_settings(target="1")))
    check(report_of(demo, explained, make_settings(layers=("blocks.4", "classifier"), batch_size=3)))


METHOD_NAMES = ["integrated_gradients:num_steps=3", "gradient_shap:num_samples=2", "occlusion:window=1.0"]


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_reports_of_other_methods(demo: LoadedModel, explained: Explanation, method: str) -> None:
    settings = make_settings(method)
    found = explain(demo, explained.subject, settings, lambda *_: None)
    report = report_of(demo, found, settings)
    check(report)
    delta = report["samples"][0]["maps"]["trace"]["convergence_delta"]
    assert (delta is None) == (method == "occlusion:window=1.0")
    assert delta == found.trace_map.convergence_delta
    assert report["settings"]["method"] == method
    assert report["settings"]["method_settings"].keys() >= {"baseline"}


def test_what_it_says(demo: LoadedModel, explained: Explanation) -> None:
    report = report_of(demo, explained, make_settings(target="1"))
    photo, trace = report["samples"][0], explained.trace
    created = datetime.datetime.fromisoformat(report["created"].replace("Z", "+00:00"))
    assert abs((datetime.datetime.now(datetime.timezone.utc) - created).total_seconds()) < 60
    assert report["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"spadelens", "torchvision", "captum", "python"} <= report["versions"].keys()
    assert report["device"] == "cpu"
    assert report["model"]["num_classes"] == 10
    assert report["model"]["input_size"] == [64, 64]
    assert report["settings"]["target"] == "1"
    assert report["settings"]["seed"] == 5
    assert report["settings"]["num_views"] == 2
    assert report["settings"]["preset"] == "fast"
    assert report["settings"]["positions_per_column"] == 3
    assert report["settings"]["precision"] == "float32"
    assert photo["search"] is None
    assert report["settings"]["solver"] == "sparsegpt:damping=0.05"
    assert report["settings"]["schedule"] == "late:0.5@0.7"
    assert photo["explained_class"] == {"class_index": 1, "class_name": "ring"}
    for key, prediction in (("original", trace.report.original_prediction), ("trace", trace.report.trace_prediction)):
        assert photo[key]["class_index"] == prediction.class_index
        assert photo[key]["probability"] == prediction.probability
        assert photo[key]["explained_probability"] == prediction.probabilities[1]
        assert [top["probability"] for top in photo[key]["top"]] == sorted(prediction.probabilities, reverse=True)[:5]
        assert photo[key]["top"][0]["class_name"] == photo[key]["class_name"]
    assert photo["is_prediction_kept"] == (photo["original"]["class_index"] == photo["trace"]["class_index"])
    assert photo["scores"]["region"] == "the object"
    assert explained.scores is not None
    assert photo["scores"]["original"]["auc"] == explained.scores[0].auc
    assert photo["scores"]["trace"]["auc"] == explained.scores[1].auc
    assert photo["files"]["trace"] == "a b/trace.safetensors"
    assert photo["file"] == "folder/a b.png"


def test_a_search_is_in_the_report(demo: LoadedModel, explained: Explanation) -> None:
    settings = make_settings(schedule="auto:levels=0.3/0.6/0.9,threshold=0.7")
    found = explain(demo, explained.subject, settings, lambda *_: None)
    report = report_of(demo, found, settings)
    check(report)
    search = report["samples"][0]["search"]
    assert report["settings"]["schedule"] == settings.options.schedule.spec()
    assert (search["criterion"], search["threshold"]) == ("probability", 0.7)
    assert search["chosen_bound"] in [point["error_bound"] for point in search["points"]]
    bounds = [point["error_bound"] for point in search["points"]]
    assert bounds == sorted(bounds)
    chosen = search["points"][bounds.index(search["chosen_bound"])]
    explained_probability = report["samples"][0]["trace"]["explained_probability"]
    assert chosen["probability"] == pytest.approx(explained_probability, abs=1e-6)
    assert chosen["kept"] >= 0.7


def test_sparsity_is_of_all_weights(demo: LoadedModel, explained: Explanation) -> None:
    photo = report_of(demo, explained, make_settings())["samples"][0]
    layers = {name: m for name, m in demo.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    sparse = explained.trace.sparse_copy()
    zeros = sum(int((sparse.get_submodule(n).weight == 0).sum()) for n in layers)  # type: ignore[arg-type,union-attr]
    total = sum(m.weight.numel() for m in layers.values())
    assert photo["sparsity"] == pytest.approx(zeros / total, abs=1e-4)
    assert {layer["name"] for layer in photo["layers"]} == set(layers)
    for layer in photo["layers"]:
        assert layer["shape"] == list(layers[layer["name"]].weight.shape)
        assert (layer["outcome"] == "pruned") == (layer["sparsity"] > 0)


def test_number_of_weights(demo: LoadedModel, explained: Explanation) -> None:
    report = report_of(demo, explained, make_settings())
    layers = [m for m in demo.model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert report["model"]["num_weights"] == sum(layer.weight.numel() for layer in layers)


def test_models_with_few_classes_and_no_names() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    loaded = LoadedModel("x.py:build", model, Preprocessing((4, 4), (0.5,) * 3, (0.5,) * 3), ())
    settings = make_settings(layers=("1",))
    found = explain(loaded, PhotoSubject("a", "a.png", Image.new("RGB", (4, 4), "red")), settings, lambda *_: None)
    report = report_of(loaded, found, settings)
    check(report)
    photo = report["samples"][0]
    assert len(photo["original"]["top"]) == 2
    assert photo["original"]["class_name"] == f"class {photo['original']['class_index']}"
    assert photo["scores"] is None
    assert [layer["outcome"] for layer in photo["layers"]] == ["pruned", "excluded"]
