"""What users pass as a heatmap: a `Heatmap`, a tensor or an array."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spadelens.errors import InputError


class HasValues(Protocol):
    """An object with the values of a map, such as a `Heatmap`."""

    @property
    def values(self) -> Tensor:
        """The values."""


MapLike: TypeAlias = "Tensor | NDArray[np.generic] | HasValues"


def map_values(heatmap: MapLike) -> Tensor:
    """Return the values of a `Heatmap`, a tensor or an array as a tensor.

    Raises:
        InputError: It is something else.
    """
    values = heatmap if isinstance(heatmap, Tensor | np.ndarray) else getattr(heatmap, "values", None)
    if isinstance(values, np.ndarray) and values.dtype.kind in "fbiu":
        values = torch.from_numpy(np.ascontiguousarray(values))
    if not isinstance(values, Tensor):
        raise InputError(
            f"Cannot use a {type(heatmap).__name__} as a heatmap: expected a Heatmap, a tensor or an array of numbers."
        )
    return values
