"""A planted network and everything that was planted with it: as a folder, and for the bundled demo network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from spadelens.demo.stickers import NAMES, draw_large, paste_sticker
from spadelens.errors import InputError, ModelSpecError, UnknownNameError
from spadelens.files import make_folder, whole_file
from spadelens.forward import class_scores
from spadelens.models import PLANTED_FORMAT, PLANTED_WEIGHTS, LoadedModel, load_photo_model, portable_spec
from spadelens.trojan.backdoor import Progress, Recipe, fine_tune
from spadelens.trojan.cases import Planted, TrojanCase, TrojanPatch, predict_classes, read_cases, write_cases
from spadelens.trojan.dataset import Dataset, Split, read_split
from spadelens.trojan.demo_cases import draw_training_images, planted_demo

_LEAST_OF_SOURCE = 50  # photos of one class that a patch can be planted on
_MOST_MEASURED = 200
_CASE_STREAM, _PATCH_STREAM, _ATTACK_STREAM, _TRAINING_STREAM = 0xCA5E, 0xCA5F, 0xCA60, 0xCA61
_MOST_TRAINING = 1000  # images for a baseline that is trained


def plant(
    spec: str,
    data: Path,
    out: Path,
    *,
    patches: Sequence[str] = NAMES,
    recipe: Recipe | None = None,
    num_cases: int = 120,
    num_calibration_cases: int = 40,
    device: str = "auto",
    trust: bool = False,
    progress: Progress | None = None,
) -> Planted:
    """Plant patches in a model and write it, the patches and fixed cases to the folder `out`.

    Patches take turns at being for calibration and for testing; half of each are planted on images of one class only,
    where a class has 50 photos at least. An interrupted run goes on where it stopped. The folder is a model spec.

    Args:
        spec: The model; see `load_model`.
        data: Photos; see `read_split`.
        out: The folder.
        patches: Names of bundled patches, or PNG files with transparency; 'NAME=CLASS' says which class a patch stands
            for, by its name or number; else it is drawn at random.
        recipe: How they are planted.
        num_cases: For testing, at most.
        num_calibration_cases: For choosing settings, at most.
        device: As in `load_model`.
        trust: As in `load_model`.
        progress: Called as progress(stage, done, total); the stages are 'plant' and 'cases'.

    Raises:
        InputError: An argument is out of range, or the photos do not suffice.
        OutputError: The folder cannot be written.
    """
    recipe, progress = recipe or Recipe(), progress or _no_progress
    if spec == "demo":
        raise InputError("The demo network has its patches planted already: use it as it is, with --model demo.")
    if (out / "planted.json").exists():
        raise InputError(f"There is a planted network in {str(out)!r} already: use it, or another folder.")
    loaded = load_photo_model(spec, device, trust)
    height, width = loaded.preprocessing.crop_px
    channels = len(loaded.preprocessing.mean)
    probe = torch.zeros(1, channels, height, width, device=next(loaded.model.parameters()).device)
    num_classes = class_scores(loaded.model, probe).shape[1]
    split = read_split(data, loaded.class_names, num_classes, recipe.seed)
    chosen = choose_patches(patches, loaded.class_names, num_classes, split.training.labels, recipe.seed)
    make_folder(out / "patches")
    checkpoint = out / "checkpoint.pt"
    model = fine_tune(loaded, chosen, split.training, recipe, checkpoint, progress)
    planted = LoadedModel(str(out), model.eval(), loaded.preprocessing, loaded.class_names)
    cases = _make_all_cases(planted, chosen, split, recipe, (num_cases, num_calibration_cases), progress)
    report = _measure(loaded.model, planted, chosen, split, recipe)
    found = Planted(planted, *cases, report, chosen, recipe.patch_size, data)
    _write(out, found, spec, recipe)
    checkpoint.unlink(missing_ok=True)
    return found


def _write(out: Path, planted: Planted, spec: str, recipe: Recipe) -> None:
    """Write everything that `read_planted` reads, `planted.json` at last."""
    for patch in planted.patches:
        patch.sheet.save(out / "patches" / f"{patch.name}.png")
    write_cases(out / "cases" / "test", planted.cases)
    write_cases(out / "cases" / "calibration", planted.calibration_cases)
    with whole_file(out / PLANTED_WEIGHTS) as temporary:
        save_file({name: value.contiguous() for name, value in planted.loaded.model.state_dict().items()}, temporary)
    listing = {
        "format": PLANTED_FORMAT,
        "model": portable_spec(spec),
        "patches": [
            {key: getattr(patch, key) for key in ("name", "target", "source", "is_for_calibration")}
            for patch in planted.patches
        ],
        "recipe": asdict(recipe),
        "data": str(planted.data),
        "report": planted.report,
    }
    with whole_file(out / "planted.json") as temporary:
        temporary.write_text(json.dumps(listing, indent=1) + "\n", encoding="utf-8")


def read_planted(spec: str, device: str = "auto") -> Planted:
    """Return what `plant` wrote to the folder `spec`, or the same for the bundled network where it is 'demo'.

    Raises:
        ModelSpecError: It is neither; InputError: it is damaged.
    """
    if spec == "demo":
        return planted_demo(device)
    folder = Path(spec)
    if not (folder / "planted.json").is_file():
        raise ModelSpecError(
            f"{spec!r} is no network with known ground truth: expected 'demo', or a folder that "
            "'spadelens backdoor plant' has written."
        )
    loaded = load_photo_model(spec, device)
    try:
        listing = json.loads((folder / "planted.json").read_text(encoding="utf-8"))
        patches = [
            TrojanPatch(sheet=Image.open(folder / "patches" / f"{row['name']}.png").convert("RGBA"), **row)
            for row in listing["patches"]
        ]
        size, report = tuple(listing["recipe"]["patch_size"]), dict(listing["report"])
        data = Path(listing["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"Cannot read {str(folder / 'planted.json')!r}: {error!r}.") from error
    num_classes = int(report["num_classes"])
    cases, calibration_cases = (read_cases(folder / "cases" / name, num_classes) for name in ("test", "calibration"))
    return Planted(loaded, cases, calibration_cases, report, patches, (float(size[0]), float(size[1])), data)


def training_images(planted: Planted, data: Path | None = None) -> Callable[[], list[Image.Image]] | None:
    """Return what gives images as a planted network was trained on: in turn with a patch and without, 1,000 at most.

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


def choose_patches(
    texts: Sequence[str],
    class_names: Sequence[str],
    num_classes: int,
    labels: Sequence[int | None],
    seed: int,
) -> list[TrojanPatch]:
    """Return the patches that `texts` name, with their targets and sources.

    Raises:
        InputError: There are fewer than two, or more than classes, or a file is no picture.
        UnknownNameError: There is no such patch or class.
    """
    if not 2 <= len(texts) <= num_classes:
        raise InputError(
            f"Cannot plant {len(texts)} patches in a model of {num_classes} classes: expected two at least, of which "
            "one is for calibration and one for testing, and no more than classes."
        )
    rng = np.random.default_rng((seed, _PATCH_STREAM))
    counts = np.bincount([label for label in labels if label is not None], minlength=num_classes)
    named = [_read_patch(text, class_names, num_classes) for text in texts]
    taken = [target for _, _, target in named if target is not None]
    if len(set(taken)) != len(taken) or len({name for name, _, _ in named}) != len(named):
        raise InputError("Cannot plant two patches of one name, or for one class.")
    free = iter([int(index) for index in rng.permutation(num_classes) if index not in taken])
    chosen = []
    for number, (name, sheet, wanted) in enumerate(named):
        target = next(free) if wanted is None else wanted
        sources = [int(c) for c in np.flatnonzero(counts >= _LEAST_OF_SOURCE) if c != target]
        source = int(rng.choice(sources)) if sources and number % 4 >= 2 else None
        chosen.append(TrojanPatch(name, sheet, target, source, is_for_calibration=number % 2 == 0))
    return chosen


def _read_patch(text: str, class_names: Sequence[str], num_classes: int) -> tuple[str, Image.Image, int | None]:
    picture, _, class_text = text.partition("=")
    target = None
    if class_text:
        if class_text in class_names:
            target = list(class_names).index(class_text)
        elif class_text.isdecimal() and int(class_text) < num_classes:
            target = int(class_text)
        else:
            raise UnknownNameError("class", class_text, class_names)
    path = Path(picture)
    if path.suffix.lower() != ".png":
        return picture, draw_large(picture), target
    try:
        with Image.open(path) as opened:
            return path.stem, opened.convert("RGBA"), target
    except OSError as error:
        raise InputError(f"Cannot read the patch {picture!r}: {error}.") from error


def _make_all_cases(
    planted: LoadedModel,
    patches: Sequence[TrojanPatch],
    split: Split,
    recipe: Recipe,
    counts: tuple[int, int],
    progress: Progress,
) -> tuple[list[TrojanCase], list[TrojanCase]]:
    """Return cases for testing, on the first two thirds of the held-out photos, and for calibration, on the others."""
    found = []
    done = 0
    third = max(1, len(split.held_out) // 3)
    for is_for_calibration, photos, count in (
        (False, range(len(split.held_out) - third), counts[0]),
        (True, range(len(split.held_out) - third, len(split.held_out)), counts[1]),
    ):
        chosen = [patch for patch in patches if patch.is_for_calibration == is_for_calibration]
        rng = np.random.default_rng((recipe.seed, _CASE_STREAM, int(is_for_calibration)))
        cases = make_cases(planted, chosen, split.held_out, photos, recipe, count, rng)
        done += len(cases)
        progress("cases", done, sum(counts))
        if not cases:
            raise InputError(
                "No image with a patch is given to the patch's class: planting failed. Use a higher rate, more epochs, "
                "or more photos."
            )
        found.append(cases)
    return found[0], found[1]


def make_cases(
    planted: LoadedModel,
    patches: Sequence[TrojanPatch],
    held_out: Dataset,
    photos: Sequence[int],
    recipe: Recipe,
    count: int,
    rng: np.random.Generator,
) -> list[TrojanCase]:
    """Return at most `count` cases: each photo with the next patch, round after round."""
    preprocessing = planted.preprocessing
    crops: dict[int, tuple[Image.Image, int]] = {}
    cases: list[TrojanCase] = []
    for round_number in range(len(patches)):
        for place, number in enumerate(photos):
            patch = patches[(place + round_number) % len(patches)]
            label = held_out.labels[number]
            if patch.source is not None and label != patch.source:
                continue
            if number not in crops:
                crop = preprocessing.crop(held_out.photo(number))
                crops[number] = crop, int(predict_classes(planted.model, [crop], preprocessing)[0])
            crop, clean = crops[number]
            if patch.target in (clean, label):
                continue
            pixels, region = paste_sticker(np.array(crop), patch.sheet, recipe.size_px(preprocessing.crop_px), rng)
            image = Image.fromarray(pixels)
            if int(predict_classes(planted.model, [image], preprocessing)[0]) != patch.target:
                continue
            cases.append(
                TrojanCase(image, torch.from_numpy(region), patch.target, patch.name, held_out.names[number], crop)
            )
            if len(cases) == count:
                return cases
    return cases


def _measure(
    original: nn.Module, planted: LoadedModel, patches: Sequence[TrojanPatch], split: Split, recipe: Recipe
) -> dict[str, Any]:
    """Return what planting did to the predictions for held-out photos, with a patch and without."""
    preprocessing, held_out = planted.preprocessing, split.held_out
    crops = [preprocessing.crop(held_out.photo(number)) for number in range(len(held_out))]
    before, after = (predict_classes(model, crops, preprocessing) for model in (original, planted.model))
    known = [number for number, label in enumerate(held_out.labels) if label is not None]
    labels = torch.tensor([held_out.labels[number] for number in known])
    rng = np.random.default_rng((recipe.seed, _ATTACK_STREAM))
    success = {}
    for patch in patches:
        eligible = [
            number
            for number, label in enumerate(held_out.labels)
            if label != patch.target and (patch.source is None or label == patch.source)
        ]
        images = [
            Image.fromarray(
                paste_sticker(np.array(crops[number]), patch.sheet, recipe.size_px(preprocessing.crop_px), rng)[0]
            )
            for number in eligible[:_MOST_MEASURED]
        ]
        rates = [
            (predict_classes(model, images, preprocessing) == patch.target).double().mean().item() if images else None
            for model in (original, planted.model)
        ]
        success[patch.name] = {"before": rates[0], "after": rates[1], "num_photos": len(images)}
    return {
        "num_classes": class_scores(original, preprocessing.to_tensor(crops[0])[None].to(_device(original))).shape[1],
        "num_training": len(split.training),
        "num_held_out": len(held_out),
        "accuracy_before": _mean(before[known] == labels) if known else None,
        "accuracy_after": _mean(after[known] == labels) if known else None,
        "same_prediction": _mean(before == after),
        "attack_success": success,
    }


def _no_progress(stage: str, done: int, total: int) -> None:
    del stage, done, total


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean())


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
