"""Results as pictures: heatmaps, overlays, bars, images of units. Matplotlib is imported only for its colors."""

from __future__ import annotations

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

COLORMAP = "inferno"
_SHOWN_AS_BRIGHTEST = 0.995  # quantile: a few extreme pixels would leave the rest black
_SMALLEST_SHOWN_PX = 448
_LARGEST_ENLARGED_PX = 896  # of the longer side, so that narrow photos do not become pages of megabytes
_LARGEST_OPACITY = 0.85
_LARGEST_SMOOTHED = 2  # enlargements beyond it keep the pixels visible
_OUTLINE_PX = 3
_SPEAKS_FOR, _SPEAKS_AGAINST = (30, 120, 220), (235, 110, 0)  # told apart by readers who confuse red and green
_QUALITY = 70  # of JPEG files
_BACKDROP = 0.5  # grey, as what comes in from outside of an image
_MOST_BARS, _BAR_AREA_PX = 360, 96
_FOR, _AGAINST, _EMPTY = (192, 57, 43), (41, 98, 178), (255, 255, 255)


def heatmap_picture(values: Tensor) -> Image.Image:
    """Return a heatmap `[H, W]` of values of at least 0 in color, enlarged by a whole factor to at least 448 pixels.

    The longer side is not enlarged beyond 896 pixels.

    Zero is black; values from the 99.5th percentile up have the brightest color. Each map is scaled separately.
    """
    return _enlarged(colored_picture(values))


def colored_picture(values: Tensor) -> Image.Image:
    """Return a heatmap `[H, W]` in color as `heatmap_picture` does, with one pixel for each value."""
    return Image.fromarray(_colors(scaled(values)))


def overlay_picture(values: Tensor, photo: Image.Image) -> Image.Image:
    """Return a heatmap `[H, W]` over the grayscale `photo` of the same size; higher values are more opaque."""
    strength = scaled(values)
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float64)
    opacity = _LARGEST_OPACITY * np.sqrt(strength)[..., None]
    mixed = (1 - opacity) * grey + opacity * _colors(strength)
    return _enlarged(Image.fromarray(np.rint(mixed).astype(np.uint8)))


def contrast_picture(values: Tensor, photo: Image.Image) -> Image.Image:
    """Return a signed map `[H, W]` over the grayscale `photo`: blue where it is positive, orange where it is negative.

    Zero is transparent; sizes from the 99.5th percentile up are the most opaque.
    """
    strength = scaled(values)[..., None]
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float64)
    colors = np.where(values.detach().cpu().numpy()[..., None] > 0, _SPEAKS_FOR, _SPEAKS_AGAINST)
    opacity = _LARGEST_OPACITY * strength
    return _enlarged(Image.fromarray(np.rint((1 - opacity) * grey + opacity * colors).astype(np.uint8)))


def photo_picture(photo: Image.Image) -> Image.Image:
    """Return the cropped photo at the size of its heatmaps."""
    return _enlarged(photo)


def as_picture(image: Tensor, opacity: Tensor | None = None) -> Image.Image:
    """Return colors in [0, 1] `[C, H, W]` as a picture, over grey where an `opacity` `[H, W]` is given."""
    colors = image.double() if opacity is None else _BACKDROP + opacity.double() * (image.double() - _BACKDROP)
    pixels = np.rint(255 * colors.movedim(0, -1).numpy()).astype(np.uint8)
    return Image.fromarray(np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels)


def overlap_picture(overlap: Tensor, order: list[int]) -> Image.Image:
    """Return overlaps `[N, N]` of all pairs of samples in an order, in grey; darker means more overlap."""
    overlap = overlap[order][:, order].clone()
    pairs = ~torch.eye(len(order), dtype=torch.bool)
    low, high = (float(np.quantile(overlap[pairs].double().numpy(), share)) for share in (0.02, 0.98))
    shades = 255 * (1 - ((overlap - low) / max(high - low, 1e-12)).clamp(0, 1))
    return Image.fromarray(shades.round().byte().numpy())


def bars_picture(values: Tensor) -> Image.Image:
    """Return numbers `[N]` as bars from left to right: red above the zero line, blue below it.

    The longest bar takes all of its side. Of more than 360 numbers, each bar is the largest in size of a run of them.
    """
    array = values.detach().cpu().double().numpy()
    if len(array) > _MOST_BARS:
        runs = np.array_split(array, _MOST_BARS)
        array = np.array([run[np.abs(run).argmax()] for run in runs])
    above, below = max(float(array.max()), 0.0), max(float(-array.min()), 0.0)
    top = round(_BAR_AREA_PX * above / (above + below)) if above + below else _BAR_AREA_PX
    heights = array / (above + below or 1.0) * _BAR_AREA_PX
    rows = top - np.arange(_BAR_AREA_PX)[:, None]  # above the zero line: of its first row 1
    pixels = np.full((_BAR_AREA_PX, len(array), 3), _EMPTY, dtype=np.uint8)
    pixels[(rows > 0) & (rows <= np.rint(heights))] = _FOR
    pixels[(rows <= 0) & (rows > np.rint(heights))] = _AGAINST
    width = max(1, _MOST_BARS // len(array))
    return Image.fromarray(pixels.repeat(width, axis=1))


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def outlined_picture(photo: Image.Image, region: Tensor) -> Image.Image:
    """Return a photo as `photo_picture` does, with the border of a region `[H, W]` in white on black."""
    picture = _enlarged(photo).convert("RGB")
    factor = picture.width // photo.width
    large = region.cpu().numpy().repeat(factor, 0).repeat(factor, 1)
    pixels = np.array(picture)
    inner, outer = (_grown(large, width) for width in (_OUTLINE_PX, 2 * _OUTLINE_PX))
    pixels[outer & ~large] = 0
    pixels[inner & ~large] = 255
    return Image.fromarray(pixels)


def _grown(region: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return a region with all pixels at most `width` away, diagonals included."""
    for axis in (0, 1):
        padded = np.pad(region, [(width, width) if each == axis else (0, 0) for each in (0, 1)])
        count = region.shape[axis]
        shifted = [padded.take(range(start, start + count), axis) for start in range(2 * width + 1)]
        region = np.logical_or.reduce(shifted)
    return region


def photo_bytes(picture: Image.Image) -> bytes:
    """Return a picture of a photo as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def mask_picture(region: Tensor) -> Image.Image:
    """Return a region `[H, W]` in white on black, with one pixel for each of its pixels."""
    return Image.fromarray(region.cpu().numpy().astype(np.uint8) * 255)


def outline_path(region: Tensor) -> str:
    """Return the border of a region `[H, W]` as the path of an SVG picture whose unit is a pixel."""
    padded = np.pad(region.cpu().numpy(), 1)
    parts = []
    for is_across, borders in (
        (True, padded[1:, 1:-1] != padded[:-1, 1:-1]),
        (False, padded[1:-1, 1:] != padded[1:-1, :-1]),
    ):
        lines = borders if is_across else borders.T
        for place, line in enumerate(lines):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(np.int8), [0]])))
            for start, end in edges.reshape(-1, 2).tolist():
                parts.append(f"M{start} {place}H{end}" if is_across else f"M{place} {start}V{end}")
    return "".join(parts)


def scaled(values: Tensor) -> NDArray[np.float64]:
    """Return a heatmap `[H, W]` scaled to [0, 1]: 1 is its 99.5th percentile, or its maximum if that is zero."""
    array = values.detach().cpu().double().abs().numpy()
    brightest = float(np.quantile(array, _SHOWN_AS_BRIGHTEST)) or float(array.max())
    return np.zeros_like(array) if brightest == 0 else np.clip(array / brightest, 0.0, 1.0)


def _colors(strength: NDArray[np.float64]) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    colors: NDArray[np.uint8] = colormaps[COLORMAP](strength, bytes=True)[..., :3]
    return np.ascontiguousarray(colors)


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = max(1, min(-(-_SMALLEST_SHOWN_PX // min(picture.size)), _LARGEST_ENLARGED_PX // max(picture.size)))
    kept = Image.Resampling.NEAREST if factor > _LARGEST_SMOOTHED else Image.Resampling.BICUBIC
    return picture.resize((picture.width * factor, picture.height * factor), kept)
