"""`superpixels`: a photo divided into connected patches of similar color."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spadelens.errors import AttributionError

_LEAST_AREA_PX = 32
_LEAST_COUNT = 8
_COMPACTNESS = (0.3, 3.0, 30.0, 3e4)  # for three channels; with the last, color has no effect


def superpixels(photo: Tensor, most: int) -> Tensor:
    """Return the index of every pixel's superpixel, int64 `[H, W]` or `[D, H, W]` starting from 0, on the CPU.

    SLIC (Achanta et al. 2012), as implemented in scikit-image, which scales the photo to its own range. It is asked for
    about `most` superpixels, or fewer on small photos, such that they have 32 pixels on average, but at least 8
    superpixels. On noise and fine patterns, SLIC merges almost everything. While it returns fewer than half of those
    asked for, it is repeated with the weight of positions relative to colors raised tenfold. In the last attempt, only
    positions count, which gives a grid; so does a photo of a single color.

    Args:
        photo: `[C, H, W]` or `[C, D, H, W]`.
        most: The number of superpixels of a large photo.

    Raises:
        AttributionError: The photo has another number of dimensions.
    """
    from skimage.segmentation import slic

    if photo.dim() not in (3, 4):
        raise AttributionError(
            f"Cannot find superpixels in a sample of shape {list(photo.shape)}: expected [C, H, W] or [C, D, H, W]."
        )
    values = photo.detach().cpu().double().numpy()
    num_pixels = photo[0].numel()
    count = min(most, max(num_pixels // _LEAST_AREA_PX, min(num_pixels, _LEAST_COUNT)))
    for compactness in _COMPACTNESS:
        labels = slic(
            values,
            n_segments=count,
            compactness=compactness * (len(photo) / 3) ** 0.5,  # color distances grow with the number of channels
            channel_axis=0,
            convert2lab=False,
        )
        _, numbers = np.unique(labels, return_inverse=True)
        if 2 * (numbers.max() + 1) >= count:
            break
    return torch.from_numpy(numbers.reshape(labels.shape).astype(np.int64))
