"""Cases to tune on: those of a planted network, or photos of which only the prediction is known."""

from __future__ import annotations

from pathlib import Path

from spadelens.errors import InputError
from spadelens.evaluation.tuning import CalibrationCase
from spadelens.models import LoadedModel, load_model
from spadelens.trojan.cases import Planted, predict_classes
from spadelens.trojan.dataset import read_split
from spadelens.trojan.planted import read_planted


def planted_cases(spec: str, count: int, device: str, trust: bool = False) -> tuple[LoadedModel, list[CalibrationCase]]:
    """Return a planted network and at most `count` of its calibration cases; raises as `read_planted`."""
    planted = read_planted(spec, device, trust=trust)
    return planted.loaded, to_calibration_cases(planted)[:count]


def to_calibration_cases(planted: Planted) -> list[CalibrationCase]:
    """Return the calibration cases of a planted network as what `tune` takes."""
    to_tensor = planted.loaded.preprocessing.to_tensor
    return [
        CalibrationCase(to_tensor(case.image), case.target, case.region, case.patch)
        for case in planted.calibration_cases
    ]


def unlabeled_cases(
    spec: str, data: Path, count: int, device: str, trust: bool, seed: int
) -> tuple[LoadedModel, list[CalibrationCase]]:
    """Return a model and at most `count` photos with what the model predicts for them; raises as `read_split`."""
    loaded = load_model(spec, device, trust, kind="photo")
    held_out = read_split(data, loaded.class_names, len(loaded.class_names) or 2**31, seed).held_out
    crops = [loaded.preprocessing.crop(held_out.photo(number)) for number in range(min(count, len(held_out)))]
    if len(crops) < 2:
        raise InputError(f"Cannot tune on {len(crops)} photos: expected at least two.")
    targets = predict_classes(loaded.model, crops, loaded.preprocessing).tolist()
    return loaded, [
        CalibrationCase(loaded.preprocessing.to_tensor(crop), target, None, "")
        for crop, target in zip(crops, targets, strict=True)
    ]
