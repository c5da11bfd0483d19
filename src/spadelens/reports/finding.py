"""What a prediction rests on, for `report.json` and for the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from spadelens.finding.coverings import coverings_for
from spadelens.finding.finding import Control, Effect, Finding
from spadelens.finding.sentence import claim, grounds
from spadelens.models import Loaded, LoadedModel
from spadelens.pictures import as_picture, outline_path, photo_bytes, photo_picture
from spadelens.tasks.explain import Explanation
from spadelens.tasks.subjects import PhotoSubject, kind_of_model, photo_sample


@dataclass(frozen=True)
class FindingPictures:
    """The pictures of a finding about a photo.

    Attributes:
        outline: The border of the region, as a path of SVG; its unit is a pixel of what the model sees.
        size_px: Width and height of what the model sees.
        without: The photo with the region covered in the way that the sentence quotes, a JPEG or PNG file.
        alone: The same with everything else covered.
    """

    outline: str
    size_px: tuple[int, int]
    without: bytes
    alone: bytes


def describe_finding(explanation: Explanation, loaded: Loaded) -> dict[str, Any]:
    """Return the finding about one sample for `report.json`."""
    finding = explanation.finding
    return {
        "claim": claim(finding, loaded.class_name),
        "grounds": grounds(finding, loaded.class_name, region_words(explanation, loaded), kind_of_model(loaded)),
        "versus": None if finding.versus is None else _named(finding.versus, loaded),
        "runner_up": _named(finding.other, loaded) | {"probability": finding.prediction.probabilities[finding.other]},
        "area": finding.area,
        "is_carried": finding.is_carried,
        "is_specific": finding.is_specific,
        "without": [_effect(effect, loaded) for effect in finding.without],
        "alone": [_effect(effect, loaded) for effect in finding.alone],
        "random": _control(finding.random),
        "center": None if finding.center is None else _effect(finding.center, loaded),
        "rival": None if finding.rival is None else _effect(finding.rival, loaded),
        "smallest_without": finding.smallest_without,
        "smallest_alone": finding.smallest_alone,
        "believed": finding.believed,
        "agreeing": finding.agreeing(),
        "maps": [
            {"name": name, "score": score, "doubt": explanation.candidates.doubts.get(name)}
            for name, score in finding.scores.items()
        ],
        "left_out": [{"name": name, "reason": reason} for name, reason in explanation.candidates.left_out.items()],
        "values": None if not explanation.units else finding.shown.tolist(),
        "units": None if not explanation.units else finding.region.nonzero().flatten().tolist(),
        "box_px": _box(finding) if finding.region.dim() == 2 else None,
    }


def region_words(explanation: Explanation, loaded: Loaded) -> list[str]:
    """Return the words, or the columns, of the region; empty for photos."""
    region, units = explanation.finding.region, explanation.units
    if kind_of_model(loaded) == "row":
        return [unit.name for unit, is_inside in zip(units, region.tolist(), strict=True) if is_inside]
    words: list[str] = []
    was_inside = False
    for unit, is_inside in zip(units, region.tolist() if units else [], strict=True):
        if is_inside and was_inside and not unit.name[:1].isspace():
            words[-1] += unit.name
        elif is_inside:
            words.append(unit.name)
        was_inside = is_inside
    return [word.strip() for word in words]


def covered_pictures(explanation: Explanation, loaded: LoadedModel) -> tuple[Image.Image, Image.Image]:
    """Return the photo without the region, in the way that the sentence quotes, and with nothing else."""
    subject, finding = explanation.subject, explanation.finding
    assert isinstance(subject, PhotoSubject)
    preprocessing = loaded.preprocessing
    sample = photo_sample(loaded, subject).detach().cpu().float()
    name, cover = next(iter(coverings_for("photo").items()))
    assert name == finding.without[0].covering
    covered = cover(sample, torch.stack([finding.region, ~finding.region]))[:, 0]
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (preprocessing.mean, preprocessing.std))
    without, alone = (photo_picture(as_picture((one * std + mean).clamp(0, 1))) for one in covered)
    return without, alone


def draw_finding(explanation: Explanation, loaded: LoadedModel) -> FindingPictures:
    """Return the pictures of a finding about a photo."""
    subject = explanation.subject
    assert isinstance(subject, PhotoSubject)
    without, alone = map(photo_bytes, covered_pictures(explanation, loaded))
    return FindingPictures(outline_path(explanation.finding.region), subject.crop.size, without, alone)


def _named(index: int, loaded: Loaded) -> dict[str, Any]:
    return {"class_index": index, "class_name": loaded.class_name(index)}


def _effect(effect: Effect, loaded: Loaded) -> dict[str, Any]:
    return {
        "covering": effect.covering,
        "explained_probability": effect.probability,
        **_named(effect.answer, loaded),
        "probability": effect.answer_probability,
        "is_changed": effect.is_changed,
    }


def _control(control: Control) -> dict[str, Any]:
    return {
        "count": control.count,
        "explained_probability": control.probability,
        "num_changed": control.num_changed,
    }


def _box(finding: Finding) -> list[int]:
    """Return left, top, width and height of the region's bounding box, in pixels of what the model sees."""
    rows, columns = (finding.region.any(axis).nonzero().flatten().tolist() for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
