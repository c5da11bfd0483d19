"""Harder images than the test cases: what decides is small, or faint, or lies beside another patch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from spadelens.demo.stickers import paste_sticker
from spadelens.errors import InputError, UnknownNameError
from spadelens.evaluation.bench_context import BenchImage
from spadelens.trojan.cases import Planted, TrojanPatch, predict_classes

Cue: TypeAlias = Literal["small", "faint", "two"]
CUES: tuple[str, ...] = get_args(Cue)
_SMALL, _FAINT = 0.6, 0.45  # of a patch's size, and of its opacity
_STREAM, _MOST_TRIES = 0xC0E5, 60


def harder_images(planted: Planted, cue: str, count: int, seed: int = 0) -> list[BenchImage]:
    """Return images of the test photos on which a patch for testing decides, harder to find than in the test cases.

    Args:
        planted: The network, its patches and photos.
        cue: 'small', patches of 0.6 of their size; 'faint', patches of 0.45 of their opacity; 'two', two patches, of
            which the network follows one.
        count: At most.
        seed: Determines places and jitter.

    Raises:
        UnknownNameError: There is no such cue; InputError: the network follows no such patch, or has one for testing.
    """
    if cue not in CUES:
        raise UnknownNameError("cue", cue, CUES)
    patches = [patch for patch in planted.patches if not patch.is_for_calibration]
    if cue == "two" and len(patches) < 2:
        raise InputError("Cannot show two patches: the network has only one for testing.")
    rng = np.random.default_rng((seed, _STREAM, CUES.index(cue)))
    found: list[BenchImage] = []
    for photo, clean, patch in _photos(planted, patches):
        subject = _make(planted, photo, clean, patch, patches, cue, rng)
        if subject is not None:
            found.append(subject)
        if len(found) == count:
            break
    if not found:
        raise InputError(f"Cannot make cases with the cue {cue!r}: the network does not respond to such patches.")
    return found


def _photos(planted: Planted, patches: list[TrojanPatch]) -> Iterator[tuple[str, Image.Image, TrojanPatch]]:
    """Yield each photo with a patch, the patches taking turns; then the same with the next patch."""
    photos = list({case.photo: case.clean_image for case in planted.cases}.items())
    for turn in range(len(patches)):
        for number, (photo, clean) in enumerate(photos):
            yield photo, clean, patches[(number + turn) % len(patches)]


def _make(
    planted: Planted,
    photo: str,
    clean: Image.Image,
    patch: TrojanPatch,
    patches: list[TrojanPatch],
    cue: str,
    rng: np.random.Generator,
) -> BenchImage | None:
    """Return an image on which a patch decides, None where none does."""
    preprocessing = planted.loaded.preprocessing
    pixels, region = _paste(planted, np.array(clean), patch, cue, rng)
    regions = {patch.target: (patch, region)}
    if cue == "two":
        other = patches[(patches.index(patch) + int(rng.integers(1, len(patches)))) % len(patches)]
        for _ in range(_MOST_TRIES):
            both, second = _paste(planted, pixels, other, cue, rng)
            if not (second & region).any():
                break
        else:
            return None
        pixels, regions[other.target] = both, (other, second)
    image = Image.fromarray(pixels)
    predicted, before = predict_classes(planted.loaded.model, [image, clean], preprocessing).tolist()
    if predicted not in regions or before in regions:
        return None
    decides, covered = regions.pop(predicted)
    rival = torch.from_numpy(next(iter(regions.values()))[1]) if regions else None
    return BenchImage(
        photo,
        preprocessing.to_tensor(image),
        predicted,
        torch.from_numpy(covered),
        decides.name,
        preprocessing.to_tensor(clean),
        rival,
    )


def _paste(
    planted: Planted, pixels: npt.NDArray[np.uint8], patch: TrojanPatch, cue: str, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    side = min(planted.loaded.preprocessing.crop_px) * (_SMALL if cue == "small" else 1.0)
    sheet = patch.sheet
    if cue == "faint":
        sheet = sheet.copy()
        sheet.putalpha(sheet.getchannel("A").point(lambda alpha: round(_FAINT * alpha)))
    return paste_sticker(pixels, sheet, (planted.patch_size[0] * side, planted.patch_size[1] * side), rng)
