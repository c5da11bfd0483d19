"""One photo explained, class names, and names of photos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from spadelens import attribute
from spadelens.demo.images import draw_image
from spadelens.errors import InputError, UnknownNameError
from spadelens.extraction.options import TraceOptions
from spadelens.methods.registry import Saliency
from spadelens.metrics.localization import localize
from spadelens.models import LoadedModel, find_class
from spadelens.solvers import SparseGPT
from spadelens.tasks.explain import ExplainSettings, explain
from spadelens.tasks.subjects import PhotoSubject, unique_names

NAMES = ("Disc", "ring", "Tench, Tinca tinca", "7", "crane", "Crane")


def make_settings(target: str | None = None) -> ExplainSettings:
    options = TraceOptions(
        preset="fast",
        solver=SparseGPT(),
        schedule="late:0.5@0.7",
        augmentation="noise",
        num_views=2,
        positions_per_column=0,
    )
    return ExplainSettings(Saliency(), options, target)


def make_subject(with_region: bool = False) -> PhotoSubject:
    image = draw_image(2, 77)
    region = torch.from_numpy(np.ascontiguousarray(image.region)) if with_region else None
    return PhotoSubject("a", "folder/a.png", Image.fromarray(image.pixels), region, "the object" if with_region else "")


def test_explanation(demo: LoadedModel) -> None:
    stages: list[tuple[str, int, int]] = []
    subject = make_subject(with_region=True)
    found = explain(demo, subject, make_settings(), lambda *stage: stages.append(stage))
    sample = demo.preprocessing.to_tensor(subject.crop)
    dense = demo.model(sample[None]).softmax(-1)[0].detach()
    assert found.target == int(dense.argmax())
    assert found.target_probabilities[0] == pytest.approx(float(dense.max()), abs=1e-5)
    sparse = found.trace.sparse_copy()(sample[None]).softmax(-1)[0].detach()
    assert found.target_probabilities[1] == pytest.approx(float(sparse[found.target]), abs=1e-5)
    assert torch.equal(found.original_map.values, attribute(demo.model, sample, Saliency()).values)
    assert torch.equal(found.trace_map.values, attribute(found.trace, sample, Saliency()).values)
    assert subject.region is not None
    assert found.scores == (
        localize(found.original_map.values, subject.region),
        localize(found.trace_map.values, subject.region),
    )
    assert {stage for stage, _, _ in stages} == {"views", "solve", "check", "attribute", "candidates", "find"}
    assert all(0 <= done <= total for _, done, total in stages)
    for name in {stage for stage, _, _ in stages}:
        done = [d for stage, d, _ in stages if stage == name]
        assert done == sorted(done)
        assert done[-1] == next(total for stage, _, total in reversed(stages) if stage == name)
    assert found.seconds["attribute"] > 0
    assert found.seconds["find"] > 0
    assert found.finding.target == found.target
    assert found.finding.region.shape == sample.shape[1:]
    assert found.finding.probability == pytest.approx(found.target_probabilities[0], abs=1e-5)
    assert found.candidates.maps["saliency on the original model"] is found.original_map
    assert found.contrast is None


@pytest.mark.parametrize(("target", "expected"), [("ring", 1), ("STAR", 5), ("7", 7)])
def test_target(demo: LoadedModel, target: str, expected: int) -> None:
    found = explain(demo, make_subject(), make_settings(target), lambda *_: None)
    assert found.target == expected
    assert found.original_map.target == found.trace_map.target == expected
    assert found.target_probabilities[0] == found.trace.report.original_prediction.probabilities[expected]
    assert found.scores is None


def test_a_target_can_be_a_contrast(demo: LoadedModel) -> None:
    found = explain(demo, make_subject(), make_settings("ring - STAR"), lambda *_: None)
    assert (found.target, found.finding.versus) == (1, 5)
    assert found.original_map.versus == 5
    named = replace(demo, class_names=("a - b", *demo.class_names[1:]))  # a class is what it is called
    found = explain(named, make_subject(), make_settings("A - b"), lambda *_: None)
    assert (found.target, found.finding.versus) == (0, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("disc", 0), (" Ring ", 1), ("tench, tinca tinca", 2), ("7", 3), ("0", 0), ("5", 5), (" 4 ", 4), ("005", 5)],
)
def test_find_class(text: str, expected: int) -> None:
    assert find_class(text, NAMES, 6) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crane", r"not unique: use one of the numbers \[4, 5\]"),
        ("6", "There is no class 6: the model has 6, numbered from 0"),
        ("rnig", r"Unknown class 'rnig'\. Did you mean 'ring'\?"),
        ("-1", "Unknown class '-1'"),
        ("1.0", "Unknown class"),
        ("²", "Unknown class"),
        ("9" * 30, "There is no class 9999"),
    ],
)
def test_classes_that_do_not_exist(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_class(text, NAMES, 6)


def test_classes_without_names() -> None:
    assert find_class("3", (), 4) == 3
    with pytest.raises(InputError, match=r"There is no class 'ring': the model's classes have no names\. Use a number"):
        find_class("ring", (), 4)
    assert find_class("9", ("a", "b"), 10) == 9  # more classes than names
    with pytest.raises(UnknownNameError):
        find_class("c", ("a", "b", "c"), 2)  # more names than classes


def test_endless_numbers() -> None:
    with pytest.raises(InputError):
        find_class("9" * 5000, NAMES, 6)


def test_unique_names() -> None:
    files = ("x/a.png", "y/a.jpg", "b.png", "A.png", "a-2.png", "c d.tar.gz", "é.png")
    assert unique_names(tuple(map(Path, files))) == ("a", "a-2", "b", "A-3", "a-2-2", "c d.tar", "é")


@given(st.lists(st.text("aA-2", min_size=1, max_size=4), max_size=8))
@settings(max_examples=60, deadline=None)
def test_names_are_unique_whatever_the_case(stems: list[str]) -> None:
    names = unique_names(tuple(Path(f"{index}/{stem}.png") for index, stem in enumerate(stems)))
    assert len({name.lower() for name in names}) == len(stems)
    assert all(name.startswith(stem) for name, stem in zip(names, stems, strict=True))


def test_names_that_a_folder_cannot_have() -> None:
    files = ("..png", "...png", "report.html.png", "Report.json.png")
    names = unique_names(tuple(map(Path, files)))
    assert not {"", ".", "..", "report.html", "report.json"} & {name.lower() for name in names}
