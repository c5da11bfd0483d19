"""The kinds of input, and how each is laid out: what has a value of its own in a heatmap, and along which axes.

    photo    [C, H, W]             a pixel, of all channels
    signal   [C, T]                a time step, of all channels
    volume   [C, D, H, W]          a voxel, of all channels
    text     [tokens, features]    a token, of all features
    row      [features]            a feature

Everything that depends on the kind of a sample is looked up here. Samples are without a batch dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

Kind: TypeAlias = Literal["photo", "signal", "volume", "text", "row"]
Reduction: TypeAlias = Literal["sum_abs", "max_abs", "sum"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


@dataclass(frozen=True)
class Layout:
    """How the samples of a kind are laid out.

    Attributes:
        axes: What the axes of a sample are.
        unit: What has one value in a heatmap.
        feature_axis: The axis that holds what a unit is made of; None where it is a single number.
        is_spatial: Whether neighboring units belong together, so that windows and segments of them make sense.
    """

    axes: tuple[str, ...]
    unit: str
    feature_axis: int | None
    is_spatial: bool

    @property
    def shape(self) -> str:
        """The shape of a sample, in letters."""
        return f"[{', '.join(self.axes)}]"


LAYOUTS: Mapping[Kind, Layout] = MappingProxyType(
    {
        "photo": Layout(("C", "H", "W"), "pixel", 0, True),
        "signal": Layout(("C", "T"), "time step", 0, True),
        "volume": Layout(("C", "D", "H", "W"), "voxel", 0, True),
        "text": Layout(("tokens", "features"), "token", -1, False),
        "row": Layout(("features",), "feature", None, False),
    }
)


def read_kind(text: Any) -> Kind:
    """Return `text` if it is the name of a kind; raises ValueError if not."""
    for kind in LAYOUTS:
        if text == kind:
            return kind
    raise ValueError(f"there is no kind of input {text!r}")


def kinds_of_shape(num_axes: int) -> list[Kind]:
    """Return the kinds whose samples have this many axes."""
    return [kind for kind, layout in LAYOUTS.items() if len(layout.axes) == num_axes]


def unit_shape(sample: Tensor, kind: Kind) -> torch.Size:
    """Return the shape of a heatmap of the sample, such as `[H, W]`."""
    axis = LAYOUTS[kind].feature_axis
    return sample.shape if axis is None else sample.select(axis, 0).shape


def spread_units(units: Tensor, sample: Tensor, kind: Kind) -> Tensor:
    """Return values `[..., *unit_shape]` with an axis that broadcasts over what each unit of the sample is made of."""
    axis = LAYOUTS[kind].feature_axis
    if axis is None:
        return units
    return units.unsqueeze(axis - sample.dim() if axis >= 0 else axis)


def reduce_to_units(attribution: Tensor, kind: Kind, reduction: Reduction = "sum_abs") -> Tensor:
    """Return the attribution of one sample with one value for each unit, in float32 or wider.

    Args:
        attribution: Signed, of the shape of the sample.
        kind: The kind of the sample.
        reduction: How the values of a unit become one: 'sum_abs' (of absolute values), 'max_abs', or 'sum' (signed). A
            feature of a row has one value, which becomes absolute or stays signed.
    """
    values = attribution if attribution.dtype == torch.float64 else attribution.float()
    values = values if reduction == "sum" else values.abs()
    axis = LAYOUTS[kind].feature_axis
    if axis is None:
        return values
    return values.amax(axis) if reduction == "max_abs" else values.sum(axis)
