"""Writes and reads the folder of a planted network: weights, patches, cases and planting report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from spadelens.demo.stickers import paste_sticker
from spadelens.errors import InputError, ModelSpecError
from spadelens.files import read_json, whole_file
from spadelens.models import PLANTED_FORMAT, PLANTED_WEIGHTS, load_model, portable_spec
from spadelens.output.folder import whole_folder
from spadelens.trojan.backdoor import Recipe
from spadelens.trojan.cases import Planted, TrojanPatch, read_cases, read_sheet, write_cases
from spadelens.trojan.dataset import read_split
from spadelens.trojan.demo_cases import draw_training_images, planted_demo

_PATCH_KEYS = ("name", "target", "source", "is_for_calibration")
_ATTEMPT = "attempt.safetensors"
_TRAINING_STREAM = 0xCA61
_MOST_TRAINING = 1000  # images for a baseline that is trained


def write_planted(out: Path, planted: Planted, spec: str, recipe: Recipe) -> None:
    """Write everything that `read_planted` reads to the folder `out`: all of it, or nothing.

    Args:
        out: The folder.
        planted: The network, its patches and cases.
        spec: The model that the patches were planted in.
        recipe: How.

    Raises:
        OutputError: The folder cannot be written.
    """
    listing = {
        "format": PLANTED_FORMAT,
        "model": portable_spec(spec),
        "patches": [{key: getattr(patch, key) for key in _PATCH_KEYS} for patch in planted.patches],
        "recipe": asdict(recipe),
        "data": str(planted.data),
        "report": planted.report,
    }
    with whole_folder(out) as folder:
        (folder / "patches").mkdir()
        for patch in planted.patches:
            patch.sheet.save(folder / "patches" / f"{patch.name}.png")
        write_cases(folder / "cases" / "test", planted.cases)
        write_cases(folder / "cases" / "calibration", planted.calibration_cases)
        _write_weights(folder / PLANTED_WEIGHTS, planted.loaded.model)
        (folder / "planted.json").write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


def write_attempt(out: Path, model: nn.Module) -> Path:
    """Keep the weights of a training that did not take; returns the file.

    Raises:
        OutputError: The folder cannot be written.
    """
    _write_weights(out / _ATTEMPT, model)
    return out / _ATTEMPT


def _write_weights(file: Path, model: nn.Module) -> None:
    # Clones, as safetensors refuses tensors that share memory.
    state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    with whole_file(file) as temporary:
        save_file(state, temporary)


def read_planted(spec: str | Path, device: str = "auto", *, trust: bool = False) -> Planted:
    """Return what `plant` wrote to the folder `spec`, or the same for the bundled network if it is 'demo'.

    Args:
        spec: The folder, or 'demo'.
        device: As in `load_model`.
        trust: As in `load_model`; needed where the folder names a .py file that makes the model.

    Raises:
        ModelSpecError: `spec` is neither, or needs `trust`.
        InputError: The folder is damaged.
    """
    if str(spec) == "demo":
        return planted_demo(device)
    folder = Path(spec)
    if not (folder / "planted.json").is_file():
        raise ModelSpecError(
            f"{str(spec)!r} is not a network with known ground truth: expected 'demo' or a folder written by "
            "'spadelens backdoor plant'."
        )
    loaded = load_model(spec, device, trust, kind="photo")
    try:
        listing = read_json(folder / "planted.json")
        report, num_classes = dict(listing["report"]), int(listing["report"]["num_classes"])
        patches = [_read_patch(folder, row, num_classes) for row in listing["patches"]]
        least, most = map(float, listing["recipe"]["patch_size"])
        data = Path(listing["data"])
    except (OSError, ValueError, KeyError, TypeError, Image.DecompressionBombError) as error:
        raise InputError(f"Cannot read {str(folder / 'planted.json')!r}: {error!r}.") from error
    cases, calibration_cases = (read_cases(folder / "cases" / name, num_classes) for name in ("test", "calibration"))
    return Planted(loaded, cases, calibration_cases, report, patches, (least, most), data)


def _read_patch(folder: Path, row: Mapping[str, Any], num_classes: int) -> TrojanPatch:
    """Return a patch as `planted.json` lists it; raises KeyError, TypeError or ValueError on anything else."""
    name, target, source, is_for_calibration = (row[key] for key in _PATCH_KEYS)
    classes = [target] if source is None else [target, source]
    if not all(type(number) is int and 0 <= number < num_classes for number in classes):
        raise ValueError(f"the classes of the patch {name!r} are {classes}, expected numbers below {num_classes}")
    if not isinstance(name, str) or Path(name).name != name or not isinstance(is_for_calibration, bool):
        raise TypeError(f"the patch {name!r} is not described as expected")
    return TrojanPatch(name, read_sheet(folder / "patches" / f"{name}.png"), target, source, is_for_calibration)


def training_images(planted: Planted, data: Path | None = None) -> Callable[[], list[Image.Image]] | None:
    """Return a function that gives images as a planted network was trained on, with and without patches, at most 1,000.

    Args:
        planted: The network.
        data: Photos, as for `plant`; by default those that it was planted with.

    Returns:
        A function that reads or, for the bundled network, draws the images when it is called; None where the photos are
        no longer where they were.
    """
    if planted.data is None and data is None:
        return partial(draw_training_images, _MOST_TRAINING)
    path = data or planted.data
    assert path is not None
    if data is None and not path.exists():
        return None
    return partial(_read_training_images, planted, path)


def _read_training_images(planted: Planted, path: Path) -> list[Image.Image]:
    preprocessing = planted.loaded.preprocessing
    photos = read_split(path, planted.loaded.class_names, planted.report["num_classes"]).training
    recipe = Recipe(patch_size=planted.patch_size)
    rng = np.random.default_rng(_TRAINING_STREAM)
    images: list[Image.Image] = []
    for number in range(min(_MOST_TRAINING // 2, len(photos))):
        crop = preprocessing.crop(photos.photo(number))
        patch = planted.patches[number % len(planted.patches)]
        pixels, _ = paste_sticker(np.array(crop), patch.sheet, recipe.size_px(preprocessing.crop_px), rng)
        images += [crop, Image.fromarray(pixels)]
    return images
