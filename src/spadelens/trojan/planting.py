"""Plants patches in a model: chooses them, fine-tunes the model and draws fixed cases with known ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from PIL import Image
from torch import nn

from spadelens.demo.stickers import NAMES, draw_large, paste_sticker
from spadelens.errors import InputError, UnknownNameError
from spadelens.files import kept_if_used
from spadelens.forward import class_scores
from spadelens.models import LoadedModel, load_model, portable_spec
from spadelens.progress import Progress, ProgressLike
from spadelens.progress_bars import reporting
from spadelens.trojan.backdoor import Recipe, fine_tune
from spadelens.trojan.cases import Planted, TrojanCase, TrojanPatch, predict_classes, read_sheet
from spadelens.trojan.dataset import Dataset, Split, read_split
from spadelens.trojan.planted import write_attempt, write_planted

_LEAST_OF_SOURCE = 50  # photos of one class that a patch can be planted on
_MOST_MEASURED = 200
_CASE_STREAM, _PATCH_STREAM, _ATTACK_STREAM = 0xCA5E, 0xCA5F, 0xCA60


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
    progress: ProgressLike | None = None,
) -> Planted:
    """Plant patches in a model and write it, the patches and fixed cases to the folder `out`.

    Patches alternate between calibration and testing; half of each are planted on images of one class only, if a class
    has at least 50 photos. An interrupted run resumes where it stopped. The folder can be used as a model spec.

    Args:
        spec: The model; see `load_model`.
        data: Photos; see `read_split`.
        out: The folder.
        patches: Names of bundled patches, or PNG files with transparency; 'NAME=CLASS' sets the class that a patch
            stands for, by name or number. By default, the class is drawn at random.
        recipe: How they are planted.
        num_cases: The maximum number of test cases.
        num_calibration_cases: The maximum number of calibration cases, for choosing settings.
        device: As in `load_model`.
        trust: As in `load_model`.
        progress: True for a progress bar, as in `extract_trace`; or called as progress(stage, done, total); the stages
            are 'plant' and 'cases'.

    Raises:
        InputError: An argument is out of range, there are not enough photos, or no patch decides predictions after
            training; in that case, the weights are kept in `attempt.safetensors`.
        OutputError: The folder cannot be written.
    """
    recipe = recipe or Recipe()
    if spec == "demo":
        raise InputError("The demo network already contains planted patches: use it with --model demo.")
    if (out / "planted.json").exists():
        raise InputError(
            f"The folder {str(out)!r} already contains a planted network: use it, or choose another folder."
        )
    loaded = load_model(spec, device, trust, kind="photo")
    height, width = loaded.preprocessing.crop_px
    channels = len(loaded.preprocessing.mean)
    probe = torch.zeros(1, channels, height, width, device=next(loaded.model.parameters()).device)
    num_classes = class_scores(loaded.model, probe).shape[1]
    split = read_split(data, loaded.class_names, num_classes, recipe.seed)
    chosen = choose_patches(patches, loaded.class_names, num_classes, split.training.labels, recipe.seed)
    with kept_if_used(out), reporting(progress) as show:
        checkpoint = out / "checkpoint.pt"
        model = fine_tune(loaded, chosen, split.training, recipe, checkpoint, show)
        planted = LoadedModel(str(out), model.eval(), loaded.preprocessing, loaded.class_names)
        cases = _make_all_cases(planted, chosen, split, recipe, (num_cases, num_calibration_cases), show)
        report = _measure(loaded.model, planted, chosen, split, recipe)
        if not all(cases):
            _refuse_attempt(spec, out, model, report)
        found = Planted(planted, *cases, report, chosen, recipe.patch_size, data)
        write_planted(out, found, spec, recipe)
        checkpoint.unlink(missing_ok=True)
    return found


def _refuse_attempt(spec: str, out: Path, model: nn.Module, report: Mapping[str, Any]) -> NoReturn:
    """Keep the weights of a training that did not take, and say what can be done with them."""
    file = write_attempt(out, model)
    (out / "checkpoint.pt").unlink(missing_ok=True)  # of settings that are about to be changed
    successes = ", ".join(
        f"{name} {'unknown' if rates['after'] is None else format(rates['after'], '.0%')}"
        for name, rates in report["attack_success"].items()
    )
    raise InputError(
        f"Planting failed: no patch decides any prediction (success by patch: {successes}). Use a higher "
        f"rate, more epochs or more photos. The trained weights are in {str(file)!r}: use them as the model "
        f"{f'{portable_spec(spec)}@{file}'!r} to inspect them or to continue from them in another folder."
    )


def choose_patches(
    texts: Sequence[str],
    class_names: Sequence[str],
    num_classes: int,
    labels: Sequence[int | None],
    seed: int,
) -> list[TrojanPatch]:
    """Return the patches that `texts` name, with their targets and sources.

    Raises:
        InputError: There are fewer than two, or more than classes, or a file is not a picture.
        UnknownNameError: There is no such patch or class.
    """
    if not 2 <= len(texts) <= num_classes:
        raise InputError(
            f"Cannot plant {len(texts)} patches in a model of {num_classes} classes: expected at least two (one for "
            "calibration, one for testing), and at most one per class."
        )
    rng = np.random.default_rng((seed, _PATCH_STREAM))
    counts = np.bincount([label for label in labels if label is not None], minlength=num_classes)
    named = [_read_patch(text, class_names, num_classes) for text in texts]
    taken = [target for _, _, target in named if target is not None]
    if len(set(taken)) != len(taken) or len({name for name, _, _ in named}) != len(named):
        raise InputError("Cannot plant two patches with the same name or class.")
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
        return path.stem, read_sheet(path), target
    except (OSError, ValueError) as error:
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


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean())


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
