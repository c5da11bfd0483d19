"""Color jitter with different factors for every picture of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in Pillow


def jitter_colors(pixels: Tensor, factors: Tensor) -> Tensor:
    """Return `pixels` `[B, C, H, W]` in [0, 1] with jittered colors, clamped to [0, 1].

    Args:
        pixels: Pictures; saturation and hue are left alone unless they have three channels.
        factors: `[B, 4]`: brightness, contrast and saturation factors (1 changes nothing) and the hue shift as a
            fraction of the color circle (0 changes nothing), applied in this order.
    """
    brightness, contrast, saturation, hue = factors.view(-1, 4, 1, 1, 1).unbind(1)
    pixels = (pixels * brightness).clamp(0, 1)
    gray = _gray(pixels)
    pixels = torch.lerp(gray.mean(dim=(-2, -1), keepdim=True).expand_as(pixels), pixels, contrast).clamp(0, 1)
    if pixels.shape[1] != 3:
        return pixels
    pixels = torch.lerp(_gray(pixels).expand_as(pixels), pixels, saturation).clamp(0, 1)
    return _shift_hue(pixels, hue.squeeze(1))


def _gray(pixels: Tensor) -> Tensor:
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    luma = pixels.new_tensor(_LUMA).view(1, 3, 1, 1)
    return (pixels * luma).sum(1, keepdim=True)


def _shift_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of `pixels` `[B, 3, H, W]` by `shift` `[B, 1, 1]` of the color circle, keeping value and chroma."""
    value, largest = pixels.max(1)
    chroma = value - pixels.min(1).values
    red, green, blue = pixels.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sixths = torch.where(
        largest == 0,
        (green - blue) / safe,
        torch.where(largest == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sixths + 6 * shift
    # Each channel of HSV is value - chroma * clamp(min(k, 4 - k), 0, 1), with k a shifted hue in [0, 6).
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)
