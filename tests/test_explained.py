"""`spadelens.explain`: one call from a model and a sample to a sentence, a region, a map and a report."""

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import spadelens
from spadelens.errors import InputError, PhotoError, UnknownNameError
from spadelens.models import LoadedModel
from spadelens.tasks.demo import demo_subjects

FAST: dict[str, Any] = {"preset": "instant"}


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return demo_subjects()[0].crop


@pytest.fixture(scope="module")
def explained(demo: LoadedModel, photo: Image.Image) -> spadelens.Explained:
    return spadelens.explain(demo, photo, versus="arrow", **FAST)


def test_what_it_says(explained: spadelens.Explained) -> None:
    finding = explained.finding
    assert explained.sentence.startswith("star >99%, rather than arrow <1%. It rests on the outlined ")
    assert f"{finding.area:.0%} of the photo" in explained.sentence
    assert repr(explained).startswith("<Explained: star >99%")
    assert len(repr(explained)) <= 300


def test_the_region_is_on_the_sticker_that_decides(explained: spadelens.Explained) -> None:
    sticker = demo_subjects()[0].region
    assert sticker is not None
    assert explained.region.shape == explained.map.values.shape == sticker.shape
    assert int((explained.region & sticker).sum()) > 0.6 * int(sticker.sum())
    assert explained.finding.is_carried
    assert explained.finding.area < 0.2


def test_the_map_is_the_average_of_all(explained: spadelens.Explained) -> None:
    assert explained.map.method == "average"
    assert float(explained.map.values.sum()) == pytest.approx(1.0)
    assert set(explained.maps) | {"average"} == set(explained.finding.scores)


def test_the_contrast_has_both_signs(explained: spadelens.Explained, demo: LoadedModel, photo: Image.Image) -> None:
    assert explained.contrast is not None
    assert float(explained.contrast.values.min()) < 0 < float(explained.contrast.values.max())
    sticker = demo_subjects()[0].region
    assert float(explained.contrast.values[sticker].mean()) > 0
    assert spadelens.explain(demo, photo, candidates=[], **FAST).contrast is None


def test_it_shows_itself_in_a_notebook(explained: spadelens.Explained) -> None:
    page = explained._repr_html_()
    assert "star &gt;99%, rather than arrow &lt;1%" in page
    assert len(re.findall("<img ", page)) == 5
    assert len(page) < 40_000
    assert escape(explained.sentence.partition(". ")[2], quote=True) in page  # to its end, where it may warn


def test_it_writes_a_report(explained: spadelens.Explained, tmp_path: Path) -> None:
    explained.save(tmp_path / "report.html")
    explained.save(tmp_path / "report.json")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "star &gt;99%, rather than arrow &lt;1%" in page
    assert len(page) < 600_000
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (sample,) = report["samples"]
    assert f"{sample['finding']['claim']}. {sample['finding']['grounds']}" == explained.sentence
    assert sample["finding"]["area"] == pytest.approx(explained.finding.area)
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "report.json"}


def test_a_file_a_picture_and_a_tensor_give_the_same(demo: LoadedModel, photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.png")
    found = [
        spadelens.explain(demo, sample, candidates=[], **FAST)
        for sample in (tmp_path / "photo.png", photo, demo.sample(photo))
    ]
    assert len({each.sentence for each in found}) == 1
    assert all(torch.equal(each.map.values, found[0].map.values) for each in found)


def test_a_bare_module(demo: LoadedModel, photo: Image.Image) -> None:
    found = spadelens.explain(
        demo.model, demo.sample(photo), target="star", class_names=demo.class_names, candidates=[], **FAST
    )
    assert found.sentence.startswith("star >99%")
    assert "<img " in found._repr_html_()


class Sum(nn.Module):
    """Gives the second feature to the first class, and the others to the second."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2, bias=False)
        self.layer.weight.data = torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 0.0, 1.0, 1.0]])

    def forward(self, rows: Tensor) -> Tensor:
        scores: Tensor = self.layer(rows)
        return scores


def test_a_row_rests_on_the_column_that_decides() -> None:
    found = spadelens.explain(Sum().eval(), torch.tensor([1.0, 1.0, 0.1, 0.1]), class_names=("a", "b"))
    assert found.sentence.startswith("a 86%, rather than b 14%. It rests on the column “feature 1”: without it, ")
    assert found.region.tolist() == [False, True, False, False]
    assert "feature 1" in found._repr_html_()


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (3, "expected the file of a photo"),
        (torch.zeros(4, 8, 8), r"of shape \[4, 8, 8\]"),
        (torch.zeros(8, 8), r"of shape \[8, 8\]"),
        (None, "NoneType"),
        (Image.new("F", (8, 8), float("nan")), "not finite"),
    ],
)
def test_what_cannot_be_explained(demo: LoadedModel, sample: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        spadelens.explain(demo, sample, **FAST)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"class_names": "abc"}, "expected a list of strings"),
        ({"class_names": [1, 2]}, "expected a list of strings"),
        ({"candidates": "lrp"}, "expected a list of names"),
        ({"candidates": [3]}, "Cannot use 3 as a method"),
        ({"candidates": ["none", "lrp"]}, "'none' alone"),
        ({"method": 3}, "Cannot use 3 as a method"),
        ({"blur": "much"}, "blur='much'"),
    ],
)
def test_arguments_of_another_type(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        spadelens.explain(Small(), torch.rand(3, 8, 8), **arguments, **FAST)


@pytest.mark.parametrize(
    "sample", [torch.full((3, 8, 8), float("nan")), torch.ones(3, 8, 8) * 1j, torch.ones(3, 8, 8) > 0]
)
def test_photos_of_a_bare_module_that_are_no_finite_numbers(sample: Tensor) -> None:
    with pytest.raises(InputError, match="expected finite floating-point numbers"):
        spadelens.explain(Small(), sample, **FAST)


def test_photos_that_require_gradients() -> None:
    sample = torch.rand(3, 8, 8, requires_grad=True)  # a warning would be an error
    assert spadelens.explain(Small(), sample, candidates=[], **FAST).region.shape == (8, 8)


class Small(nn.Module):
    """A network of photos in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, photos: Tensor) -> Tensor:
        scores: Tensor = self.last(self.first(photos).relu().amax((2, 3)))
        return scores


def test_wrong_arguments(demo: LoadedModel, photo: Image.Image, explained: Any, tmp_path: Path) -> None:
    with pytest.raises(PhotoError):
        spadelens.explain(demo, "no-such-file.jpg")
    with pytest.raises(InputError, match="expected a torch"):
        spadelens.explain(3, photo)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one or three"):
        spadelens.explain(demo.model, torch.zeros(4, 8, 8))
    with pytest.raises(InputError, match="with a bare module"):
        spadelens.explain(demo.model, "photo.jpg")
    with pytest.raises(UnknownNameError):
        spadelens.explain(demo, photo, versus="nothing of the kind")
    with pytest.raises(UnknownNameError):
        spadelens.explain(demo, photo, candidates=["no_such_method"])
    with pytest.raises(InputError, match="against itself"):
        spadelens.explain(demo, photo, versus="star", **FAST)
    with pytest.raises(InputError, match=r"\.html or \.json"):
        explained.save(tmp_path / "report.pdf")
