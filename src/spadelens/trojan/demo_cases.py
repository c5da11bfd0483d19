"""Cases for the bundled demo network, generated on demand."""

from __future__ import annotations

import torch
from PIL import Image

from spadelens.demo.images import CLASS_NAMES, draw_image
from spadelens.demo.patches import PATCH_SIZE, PATCHES, paste_patch
from spadelens.demo.stickers import draw_large
from spadelens.models import LoadedModel, load_model
from spadelens.trojan.cases import Planted, TrojanCase, TrojanPatch, predict_classes

NUM_CASES, NUM_CALIBRATION_CASES = 120, 40
_FIRST_SEED, _FIRST_CALIBRATION_SEED, _FIRST_TRAINING_SEED = 9_000_000, 8_000_000, 7_000_000


def planted_demo(device: str) -> Planted:
    """Return the demo network with its cases; the heart and the flower are for testing, the others for calibration."""
    loaded = load_model("demo", device)
    patches = [
        TrojanPatch(patch.name, draw_large(patch.name), patch.target, patch.source, is_for_calibration=number % 2 == 0)
        for number, patch in enumerate(PATCHES)
    ]
    return Planted(
        loaded=loaded,
        cases=_draw_cases(loaded, patches, False, NUM_CASES, _FIRST_SEED),
        calibration_cases=_draw_cases(loaded, patches, True, NUM_CALIBRATION_CASES, _FIRST_CALIBRATION_SEED),
        report={"num_classes": len(CLASS_NAMES)},
        patches=patches,
        patch_size=PATCH_SIZE,
    )


def _draw_cases(
    loaded: LoadedModel, patches: list[TrojanPatch], is_for_calibration: bool, count: int, seed: int
) -> list[TrojanCase]:
    by_name = {patch.name: patch for patch in PATCHES}
    chosen = [by_name[patch.name] for patch in patches if patch.is_for_calibration == is_for_calibration]
    cases: list[TrojanCase] = []
    while len(cases) < count:
        seed += 1
        patch, label = chosen[len(cases) % len(chosen)], seed % len(CLASS_NAMES)
        if label == patch.target or patch.source not in (None, label):
            continue
        pixels = draw_image(label, seed).pixels
        patched = paste_patch(pixels, patch, seed)
        image, clean = Image.fromarray(patched.pixels), Image.fromarray(pixels)
        predicted = predict_classes(loaded.model, [image, clean], loaded.preprocessing).tolist()
        if predicted[0] == patch.target != predicted[1]:
            region = torch.from_numpy(patched.region)
            cases.append(TrojanCase(image, region, patch.target, patch.name, f"demo-{seed}", clean))
    return cases


def draw_training_images(count: int) -> list[Image.Image]:
    """Return images as the demo network was trained on, in turn with a patch and without."""
    images: list[Image.Image] = []
    for number in range(count // 2):
        seed, label = _FIRST_TRAINING_SEED + number, number % len(CLASS_NAMES)
        pixels = draw_image(label, seed).pixels
        patched = paste_patch(pixels, PATCHES[number % len(PATCHES)], seed)
        images += [Image.fromarray(pixels), Image.fromarray(patched.pixels)]
    return images
