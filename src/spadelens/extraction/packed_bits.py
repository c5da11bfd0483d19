"""Boolean weight masks packed to one bit per weight, for storage and comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def pack(mask: Tensor) -> Tensor:
    """Return a boolean mask of any shape as bytes, uint8 `[bytes]` on the CPU; the last byte is filled with zeros."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().flatten().numpy()))


def unpack(packed: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the mask that `pack` packed, boolean in its `shape`.

    Raises:
        ValueError: The bytes do not encode a mask of this shape. This is checked before memory is allocated.
    """
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.dim() != 1 or min(shape, default=0) < 0 or len(packed) != -(-count // 8):
        raise ValueError(f"{list(packed.shape)} bytes do not fit a mask of shape {list(shape)}")
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count).astype(bool)).view(*shape)


def unpack_columns(packed: npt.NDArray[np.uint8]) -> Tensor:
    """Return rows of packed masks `[N, bytes]` as numbers, 0 or 1, float32 `[N, 8 * bytes]`."""
    return torch.from_numpy(np.unpackbits(packed, axis=1)).float()
