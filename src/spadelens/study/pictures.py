"""The pictures of a study: a region of a map, the photo with a region marked, and files whose names tell nothing."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from spadelens.errors import InputError
from spadelens.files import whole_file

_SMALLEST_SHOWN_PX = 448
_DIMMED = 0.4  # of the brightness outside of a region
_RIM_PX, _RIM_COLOR = 2, (255, 230, 0)  # at the size shown, on either side of the region's edge


def top_region(values: Tensor, fraction: float) -> Tensor:
    """Return the `fraction` of pixels of a map `[H, W]` whose values are highest and above zero, boolean `[H, W]`.

    Pixels as high as the lowest of them belong to it as well.

    Raises:
        InputError: The fraction is not in (0, 1).
    """
    if not 0 < fraction < 1:
        raise InputError(f"Cannot use a region of {fraction!r} of a map: expected a fraction between 0 and 1.")
    count = max(1, round(fraction * values.numel()))
    return (values >= values.flatten().topk(count).values[-1]) & (values > 0)


def largest_part(region: Tensor) -> Tensor:
    """Return the largest of the connected parts of a region `[H, W]`; pixels that share a corner are connected."""
    numbers = torch.arange(1, region.numel() + 1, dtype=torch.float64).view(region.shape) * region
    while True:  # the highest number of a part spreads over all of it
        spread = functional.max_pool2d(numbers[None, None], 3, stride=1, padding=1)[0, 0] * region
        if torch.equal(spread, numbers):
            break
        numbers = spread
    parts, sizes = numbers[region].unique(return_counts=True)
    return region & (numbers == parts[sizes.argmax()]) if len(parts) else region


def shown(picture: Image.Image) -> Image.Image:
    """Return a picture enlarged by a whole factor to at least 448 pixels."""
    factor = max(1, -(-_SMALLEST_SHOWN_PX // min(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.BICUBIC)


def marked(photo: Image.Image, region: Tensor) -> Image.Image:
    """Return a photo as it is shown, with a region `[H, W]` outlined, and grey and dim outside of it."""
    large = shown(photo)
    inside = Image.fromarray(region.numpy()).convert("L").resize(large.size, Image.Resampling.BICUBIC)
    keep = torch.from_numpy(np.asarray(inside) >= 128)
    rim = _widened(keep) & _widened(~keep)
    grey = np.asarray(large.convert("L").convert("RGB"), dtype=np.float64) * _DIMMED
    pixels = np.where(keep.numpy()[..., None], np.asarray(large, dtype=np.float64), grey)
    pixels[rim.numpy()] = _RIM_COLOR
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def to_picture(image: Tensor) -> Image.Image:
    """Return colors in [0, 1], `[C, H, W]` of one or three channels, as a picture as it is shown."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return shown(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()))


def write_pictures(folder: Path, pictures: Mapping[str, Image.Image]) -> dict[str, str]:
    """Write pictures as PNG files; returns key -> file name, a hash of what the file holds.

    Files are written in the order of their names, so that neither names nor times tell which picture is which.

    Raises:
        OutputError: They cannot be written.
    """
    named = {}
    contents = {}
    for key, picture in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        content = buffer.getvalue()
        named[key] = hashlib.blake2b(content, digest_size=8).hexdigest() + ".png"
        contents[named[key]] = content
    for name in sorted(contents):
        with whole_file(folder / name) as temporary:
            temporary.write_bytes(contents[name])
    return named


def _widened(region: Tensor) -> Tensor:
    size = 2 * _RIM_PX + 1
    return functional.max_pool2d(region[None, None].float(), size, stride=1, padding=_RIM_PX)[0, 0] > 0
