"""Units visualized for photos: what is computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references.visualized import make_settings, make_subject, run
from torch import Tensor

from spadelens import Trace, extract_trace, visualize
from spadelens.attribution.contrast import Contrast
from spadelens.errors import InputError, UnknownNameError
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.presets import find_preset
from spadelens.models import LoadedModel
from spadelens.output.unfinished import NAME, Unfinished
from spadelens.tasks import visualize as visualizing
from spadelens.tasks.explain import explain, explain_settings
from spadelens.tasks.traces import completed
from spadelens.tasks.visualize import Visualized, VisualizeSettings, make_task, visualize_photo
from spadelens.visualization import Ascent
from spadelens.visualization.objectives import Channel, ClassScore, Difference, Neuron, Objective
from spadelens.visualization.transformations import NO_TRANSFORMATIONS
from spadelens.visualization.visualization import Visualization


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
    settings = make_settings(unit="blocks.2:7", transformations=NO_TRANSFORMATIONS)
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
    ("asked", "objective", "target"),
    [
        ({}, ClassScore(2), 2),  # the predicted class
        ({"target": "ring"}, ClassScore(1), 1),
        ({"target": " Ring "}, ClassScore(1), 1),
        ({"target": "7"}, ClassScore(7), 7),
        ({"target": "ring", "versus": "7"}, Difference(ClassScore(1), ClassScore(7)), 1),
        ({"versus": "star"}, Difference(ClassScore(2), ClassScore(5)), 2),
        ({"target": "ring - 7"}, Difference(ClassScore(1), ClassScore(7)), 1),
        ({"unit": "blocks.2:3"}, Channel("blocks.2", 3), 2),
        ({"unit": "blocks.2:3@0,1"}, Neuron("blocks.2", 3, (0, 1)), 2),
        ({"unit": "blocks.2:3 - ring"}, Difference(Channel("blocks.2", 3), ClassScore(1)), 2),
        ({"unit": "blocks.2:3", "target": "ring"}, Channel("blocks.2", 3), 1),  # in the trace of another class
    ],
)
def test_classes_and_units(demo: LoadedModel, asked: dict[str, str], objective: Objective, target: int) -> None:
    task = make_task(demo, make_subject(), make_settings(**asked))
    assert int(demo.model(task.sample[None]).argmax()) == 2
    assert task.objective == objective
    assert task.target == target


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        ("rng", "Cannot read 'rng' as a unit of a layer"),
        ("ring", "For a class use --target"),
        ("7", "For a class use --target"),
        ("class:7", "For a class use --target"),
        ("star - ring", "for the difference of two --target and --versus"),
        ("rng - blocks.2:3", "Unknown class 'rng'. Did you mean 'ring'"),
        ("blcks.2:3", "Unknown layer 'blcks.2'. Did you mean 'blocks.2'"),
        ("blocks.2", "The unit 'blocks.2' is a whole layer: add one of its channels, such as blocks.2:0."),
        ("blocks.2:999", "There is no unit 999 in layer 'blocks.2'"),
        ("blocks.2:3@99,0", "no position [99, 0]"),
        ("blocks.2:x", "Cannot read the unit"),
        ("class", "For a class use --target"),
    ],
)
def test_units_that_there_are_not(demo: LoadedModel, unit: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_task(demo, make_subject(), make_settings(unit=unit))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"target": "rng"},
        {"target": "10"},
        {"target": "-1"},
        {"versus": "strr"},
        {"versus": "10"},
        {"versus": "Square"},  # the predicted class
        {"target": "ring", "versus": "1"},
        {"target": "ring - rng"},
        {"target": "ring - star - disc"},
        {"target": "ring - star", "versus": "disc"},
    ],
)
def test_classes_are_refused_in_the_words_of_explain(demo: LoadedModel, asked: dict[str, str]) -> None:
    with pytest.raises(InputError) as ours:
        make_task(demo, make_subject(), make_settings(**asked))
    with pytest.raises(InputError) as theirs:
        explain(demo, make_subject(), explain_settings(demo, **asked), lambda *_: None)
    assert str(ours.value) == str(theirs.value)
    assert type(ours.value) is type(theirs.value)


def test_a_contrast_is_the_difference_of_the_scores(demo: LoadedModel, tmp_path: Path) -> None:
    found = run(demo, make_settings("ring", versus="star"), tmp_path)
    assert found.trace.report.target == 1
    sample = found.task.sample[None]
    with torch.no_grad():
        for name, model in (("original", demo.model), ("trace", found.trace.sparse_copy())):
            scores = model(sample)[0]
            assert found.responses[name]["photo"] == pytest.approx([float(scores[1] - scores[5])], abs=1e-4)
    expected = visualize(Contrast(demo.model, 1, 5), 0, demo.preprocessing, make_settings().ascent)
    assert torch.allclose(found.original.images, expected.images, atol=1e-3)
    assert found.original.objective == "class:1 - class:5"


def stages_of(
    loaded: LoadedModel, settings: VisualizeSettings, folder: Path, **task: Any
) -> tuple[Visualized, set[str]]:
    stages: list[str] = []
    made = make_task(loaded, make_subject(**task), settings)
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
    real = visualizing.visualize

    def counted(*arguments: Any) -> list[Visualization]:
        models.append(arguments[0])
        return real(*arguments)

    monkeypatch.setattr(visualizing, "visualize", counted)
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
    other = VisualizeSettings(traces, None, make_settings().ascent, "ring")
    assert "solve" in stages_of(demo, other, tmp_path)[1]


def test_damaged_files_are_named(demo: LoadedModel, tmp_path: Path) -> None:
    settings = make_settings("ring")
    run(demo, settings, tmp_path)
    for path in (tmp_path / NAME).glob("*.found.pt"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"Cannot resume from .*found\.pt.*Delete it"):
        run(demo, settings, tmp_path)


def test_suggestions_come_before_the_trace(demo: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visualizing, "extract_trace", None)
    with pytest.raises(UnknownNameError):
        make_task(demo, make_subject(), make_settings(unit="blocks.9:0"))
