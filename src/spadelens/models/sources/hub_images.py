"""Image classifiers of transformers, with preprocessing that reproduces that of their processors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from spadelens.errors import InputError, ModelSpecError
from spadelens.photos import Preprocessing

_MOST_LEVELS = 0.5  # of 255, in the mean over the probes: torchvision rounds differently from Pillow, by 0.12
_PROBES = ((1.31, 1.9), (2.27, 1.6))  # height and width, as multiples of the crop
_LEVIT_FRACTION = 256 / 224


@final
class HubImageClassifier(nn.Module):
    """A classifier of transformers that takes pixels `[B, C, H, W]` and returns its scores."""

    def __init__(self, classifier: nn.Module, is_reversed: bool = False) -> None:
        """Wrap `classifier`; `is_reversed` says that it reads blue, green, red."""
        super().__init__()
        self.classifier, self._is_reversed = classifier, is_reversed

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the scores `[B, classes]`."""
        seen = pixels.flip(1) if self._is_reversed else pixels
        scores: Tensor = self.classifier(pixel_values=seen, return_dict=True).logits
        return scores


def match_preprocessing(processor: Any, spec: str) -> tuple[Preprocessing, bool]:
    """Return the preprocessing that gives the pixels of a processor, and whether its channels are reversed.

    Sizes and normalization are found by showing the processor pictures of one color, geometry by comparing the ways of
    resizing that processors have on two pictures with fine texture.

    Raises:
        ModelSpecError: The processor does something else.
    """
    name = type(processor).__name__
    try:
        height, width = _output_size(processor)
        plain, is_reversed = _normalization(processor, (height, width))
        errors = {
            candidate: _difference(processor, candidate, is_reversed) for candidate in _candidates(processor, plain)
        }
    except (InputError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelSpecError(f"Cannot reproduce how the {name} of {spec!r} prepares photos: {error}.") from error
    best = min(errors, key=lambda candidate: errors[candidate], default=None)
    if best is None or errors[best] > _MOST_LEVELS:
        reason = (
            "it does not resize them" if best is None else f"the closest match differs by {errors[best]:.1f} levels"
        )
        raise ModelSpecError(
            f"Cannot reproduce how the {name} of {spec!r} prepares photos: {reason}. Load it in your own file, "
            "path/to/file.py:FACTORY."
        )
    return best, is_reversed


def _pixels(processor: Any, picture: Image.Image) -> Tensor:
    """Return what a processor makes of a picture, `[C, H, W]`."""
    found = processor(images=picture, return_tensors="pt")
    pixels: Tensor = found["pixel_values"]
    if pixels.dim() != 4 or len(pixels) != 1 or pixels.shape[1] != 3:
        raise ValueError(f"it turns a picture into a tensor {list(pixels.shape)}, expected [1, 3, H, W]")
    return pixels[0].double()


def _output_size(processor: Any) -> tuple[int, int]:
    sizes = {tuple(_pixels(processor, Image.new("RGB", size)).shape[1:]) for size in ((301, 467), (613, 389), (97, 89))}
    if len(sizes) > 1:
        raise ValueError("the size of its output depends on the photo")
    height, width = sizes.pop()
    return height, width


def _normalization(processor: Any, crop_px: tuple[int, int]) -> tuple[Preprocessing, bool]:
    """Return what pictures of one color become, as a preprocessing that does not resize."""
    size = (2 * crop_px[1], 2 * crop_px[0])
    colors = {name: _pixels(processor, Image.new("RGB", size, name)).flatten(1) for name in ("black", "white", "red")}
    if any(float((seen - seen[:, :1]).abs().max()) > 1e-4 for seen in colors.values()):
        raise ValueError("it adds a margin or does something other than scaling colors")
    black, white, red = (seen[:, 0] for seen in colors.values())
    if bool((white <= black).any()):
        raise ValueError("white becomes darker than black")
    is_reversed = bool(red[2] > black[2]) and not bool(red[0] > black[0])
    if is_reversed:
        black, white = black.flip(0), white.flip(0)
    std = [float(f"{value:.6g}") for value in (1 / (white - black)).tolist()]
    mean = [float(f"{value:.6g}") + 0.0 for value in (-black / (white - black)).tolist()]
    return Preprocessing(crop_px, tuple(mean), tuple(std)), is_reversed


def _candidates(processor: Any, plain: Preprocessing) -> Iterator[Preprocessing]:
    """Yield the ways of resizing that processors have, in the sizes that this one names."""
    if not getattr(processor, "do_resize", True):
        return
    resampling = getattr(processor, "resample", None)
    resampling = Image.Resampling(2 if resampling is None else int(resampling))
    plain = replace(plain, resampling=resampling, is_floored=True)
    height, width, shortest = (_size(processor, name) for name in ("height", "width", "shortest_edge"))
    if height and width:
        yield replace(plain, resize_px=(height, width), fit="squash")
    if shortest:
        crop_fraction = getattr(processor, "crop_pct", None) or 1.0
        for resize_px in {shortest, int(shortest / crop_fraction), int(shortest * _LEVIT_FRACTION)}:
            yield replace(plain, resize_px=resize_px)
        yield replace(plain, resize_px=shortest, fit="squash")


def _size(processor: Any, name: str) -> int | None:
    size = processor.size
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)


def _difference(processor: Any, candidate: Preprocessing, is_reversed: bool) -> float:
    """Return by how many of 255 levels the pixels of a candidate differ from the processor's, in the mean."""
    rng, total = np.random.default_rng(0), 0.0
    for tall, wide in _PROBES:
        height, width = round(candidate.crop_px[0] * tall), round(candidate.crop_px[1] * wide)
        coarse = Image.fromarray(rng.integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8))
        picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
        ours = candidate.to_tensor(candidate.crop(picture)).double()
        theirs = _pixels(processor, picture)
        levels = 255 * torch.tensor(candidate.std).double().view(-1, 1, 1)
        total += float(((ours - (theirs.flip(0) if is_reversed else theirs)) * levels).abs().mean())
    return total / len(_PROBES)
