"""Units visualized for photos: what is computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from references.visualized import make_settings, make_subject, run
from torch import Tensor

from spadelens import Trace, extract_trace, visualize
from spadelens.errors import InputError, UnknownNameError
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.presets import find_preset
from spadelens.models import LoadedModel
from spadelens.output.unfinished import NAME, Unfinished
from spadelens.tasks import visualize as visualizing
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
    other = VisualizeSettings(traces, "ring", make_settings().ascent)
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
        make_task(demo, make_subject(), "blocks.9:0")
