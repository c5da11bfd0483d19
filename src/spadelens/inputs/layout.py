"""What an input is made of, told by its number of dimensions: pixels of a photo, tokens of a text, columns of a row.

    [columns]             a row of a table    one unit a column
    [tokens, features]    a text              one unit a token
    [C, H, W] or longer   a photo             one unit a place, of all channels

A map has one value for every unit. Samples are without a batch dimension here.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

Kind: TypeAlias = Literal["row", "text", "photo"]
Reduction: TypeAlias = Literal["sum_abs", "max_abs", "sum"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)
_FEATURE_AXIS: dict[Kind, int | None] = {"row": None, "text": -1, "photo": 0}


def kind_of(sample: Tensor) -> Kind:
    """Return what a sample is."""
    return "row" if sample.dim() == 1 else "text" if sample.dim() == 2 else "photo"


def unit_shape(sample: Tensor) -> torch.Size:
    """Return the shape of a map of the sample: `[columns]`, `[tokens]` or `[H, W]`."""
    axis = _FEATURE_AXIS[kind_of(sample)]
    return sample.shape if axis is None else sample.select(axis, 0).shape


def spread_units(units: Tensor, sample: Tensor) -> Tensor:
    """Return values `[..., *unit_shape]` with an axis that broadcasts over what the sample has of every unit."""
    axis = _FEATURE_AXIS[kind_of(sample)]
    if axis is None:
        return units
    return units.unsqueeze(axis - sample.dim() if axis >= 0 else axis)


def reduce_to_units(attribution: Tensor, reduction: Reduction = "sum_abs") -> Tensor:
    """Return the attribution of one sample with one value for every unit, in float32 or wider.

    Args:
        attribution: Signed, of the shape of the sample.
        reduction: How the channels of a pixel, or the features of a token, become one value: 'sum_abs' (of absolute
            values), 'max_abs', or 'sum' (signed). A column of a row has one value, which is absolute or signed.
    """
    values = attribution if attribution.dtype == torch.float64 else attribution.float()
    values = values if reduction == "sum" else values.abs()
    axis = _FEATURE_AXIS[kind_of(attribution)]
    if axis is None:
        return values
    return values.amax(axis) if reduction == "max_abs" else values.sum(axis)
