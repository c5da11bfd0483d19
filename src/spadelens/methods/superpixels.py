"""`superpixels`: a photo divided into connected patches of similar color."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spadelens.errors import AttributionError

_LEAST_AREA_PX = 32
_LEAST_COUNT = 8
_COMPACTNESS = (0.3, 3.0, 30.0, 3e4)  # for three channels; with the last one color counts nothing


def superpixels(photo: Tensor, most: int) -> Tensor:
    """Return the number of the superpixel of every place, `[H, W]` int64 from 0 on, on the CPU.

    SLIC (Achanta et al. 2012) by scikit-image, which scales the photo to its own range. About `most` are asked for,
    fewer on small photos: they shall have 32 places on average, unless that leaves fewer than 8 of them. On noise and
    fine patterns SLIC joins nearly everything. Where fewer than half of those asked for come out, places count more
    against colors, by ten and by ten again, until there are enough, or until nothing but places count: that is a grid,
    which is also what a photo of a single color gives.

    Args:
        photo: `[C, H, W]` or `[C, D, H, W]`.
        most: How many superpixels a large photo has.

    Raises:
        AttributionError: The photo has another number of dimensions.
    """
    from skimage.segmentation import slic

    if photo.dim() not in (3, 4):
        raise AttributionError(
            f"Cannot find superpixels in a sample of shape {list(photo.shape)}: expected [C, H, W] or [C, D, H, W]."
        )
    values = photo.detach().cpu().double().numpy()
    places = photo[0].numel()
    count = min(most, max(places // _LEAST_AREA_PX, min(places, _LEAST_COUNT)))
    for compactness in _COMPACTNESS:
        labels = slic(
            values,
            n_segments=count,
            compactness=compactness * (len(photo) / 3) ** 0.5,  # distances of colors grow with their number
            channel_axis=0,
            convert2lab=False,
        )
        _, numbers = np.unique(labels, return_inverse=True)
        if 2 * (numbers.max() + 1) >= count:
            break
    return torch.from_numpy(numbers.reshape(labels.shape).astype(np.int64))
