"""Score-CAM channel by channel and pixel by pixel, after Wang et al. (2019)."""

import torch
from torch import Tensor, nn


def enlarged(channel: Tensor, height: int, width: int) -> Tensor:
    """Return `[h, w]` at another size by bilinear interpolation between the centers of pixels, the rim continued."""
    result = torch.zeros(height, width, dtype=channel.dtype)
    rows, columns = channel.shape
    for y in range(height):
        for x in range(width):
            down = min(max((y + 0.5) * rows / height - 0.5, 0.0), rows - 1)
            across = min(max((x + 0.5) * columns / width - 0.5, 0.0), columns - 1)
            top, left = int(down), int(across)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = (1 - (across - left)) * channel[top, left] + (across - left) * channel[top, right]
            lower = (1 - (across - left)) * channel[bottom, left] + (across - left) * channel[bottom, right]
            result[y, x] = (1 - (down - top)) * upper + (down - top) * lower
    return result


def score_cam(model: nn.Module, channels: Tensor, sample: Tensor, target: int) -> Tensor:
    """Return the map `[H, W]` from the `channels` `[K, h, w]` of a layer's output on `sample`."""

    def probability(inputs: Tensor) -> float:
        with torch.no_grad():
            scores = model(inputs[None])[0]
        return float(scores[target].exp() / scores.exp().sum())

    found = torch.zeros(sample.shape[1:], dtype=sample.dtype)
    for channel in channels:
        large = enlarged(channel, *sample.shape[1:])
        if channel.max() == channel.min():
            continue
        keep = (large - large.min()) / (large.max() - large.min())
        weight = probability(sample * keep) - probability(0 * sample)
        found += weight * large
    return torch.clamp(found, min=0)
