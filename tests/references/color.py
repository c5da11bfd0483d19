"""Color jitter pixel by pixel."""

import colorsys

import torch
from torch import Tensor


def clamp(value: float) -> float:
    return min(1.0, max(0.0, value))


def gray(pixel: list[float]) -> float:
    if len(pixel) == 3:
        return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]
    return sum(pixel) / len(pixel)


def jittered(picture: Tensor, brightness: float, contrast: float, saturation: float, hue: float) -> Tensor:
    """Return a picture `[C, H, W]` in [0, 1] after brightness, contrast, saturation and hue, in this order."""
    channels, height, width = picture.shape
    pixels = [[float(picture[c, y, x]) for c in range(channels)] for y in range(height) for x in range(width)]
    pixels = [[clamp(value * brightness) for value in pixel] for pixel in pixels]
    mean = sum(gray(pixel) for pixel in pixels) / len(pixels)
    pixels = [[clamp(mean + contrast * (value - mean)) for value in pixel] for pixel in pixels]
    if channels == 3:
        pixels = [[clamp(gray(p) + saturation * (value - gray(p))) for value in p] for p in pixels]
        turned = []
        for pixel in pixels:
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            turned.append(list(colorsys.hsv_to_rgb((h + hue) % 1.0, s, v)))
        pixels = turned
    return torch.tensor(pixels, dtype=torch.float64).T.reshape(channels, height, width)
