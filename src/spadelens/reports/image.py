"""Heatmaps as pictures."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

_COLORMAP = "inferno"
_SHOWN_AS_BRIGHTEST = 0.995  # quantile: a few extreme pixels would leave the rest black
_SMALLEST_SHOWN_PX = 448
_LARGEST_OPACITY = 0.85


def heatmap_picture(values: Tensor) -> Image.Image:
    """Return a heatmap `[H, W]` of values of at least 0 in color, enlarged by a whole factor to at least 448 pixels.

    Zero is black; values from the 99.5th percentile up have the brightest color. Each map is scaled separately.
    """
    return _enlarged(Image.fromarray(_colors(scaled(values))))


def overlay_picture(values: Tensor, photo: Image.Image) -> Image.Image:
    """Return a heatmap `[H, W]` over the grayscale `photo` of the same size; higher values are more opaque."""
    strength = scaled(values)
    grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float64)
    opacity = _LARGEST_OPACITY * np.sqrt(strength)[..., None]
    mixed = (1 - opacity) * grey + opacity * _colors(strength)
    return _enlarged(Image.fromarray(np.rint(mixed).astype(np.uint8)))


def photo_picture(photo: Image.Image) -> Image.Image:
    """Return the cropped photo at the size of its heatmaps."""
    return _enlarged(photo)


def png_bytes(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def scaled(values: Tensor) -> NDArray[np.float64]:
    """Return a heatmap `[H, W]` scaled to [0, 1]: 1 is its 99.5th percentile, or its maximum if that is zero."""
    array = values.detach().cpu().double().abs().numpy()
    brightest = float(np.quantile(array, _SHOWN_AS_BRIGHTEST)) or float(array.max())
    return np.zeros_like(array) if brightest == 0 else np.clip(array / brightest, 0.0, 1.0)


def _colors(strength: NDArray[np.float64]) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    colors: NDArray[np.uint8] = colormaps[_COLORMAP](strength, bytes=True)[..., :3]
    return np.ascontiguousarray(colors)


def _enlarged(picture: Image.Image) -> Image.Image:
    factor = max(1, -(-_SMALLEST_SHOWN_PX // min(picture.size)))
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
