"""Scores of a heatmap against the region known to decide (section 4.1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spadelens.errors import InputError
from spadelens.metrics.map_values import MapLike, map_values


@dataclass(frozen=True)
class Localization:
    """How well a heatmap finds a region.

    Attributes:
        auc: Area under the ROC curve of the pixels, in [0, 1]; 0.5 is chance.
        pointing_game: Whether the pixel of the highest value lies in the region.
    """

    auc: float
    pointing_game: bool


def localize(heatmap: MapLike, region: Tensor | NDArray[np.bool_]) -> Localization:
    """Score a map against a boolean `region` of its shape; see `pixel_auc` and `pointing_game`."""
    return Localization(pixel_auc(heatmap, region), pointing_game(heatmap, region))


def pixel_auc(heatmap: MapLike, region: Tensor | NDArray[np.bool_]) -> float:
    """Return the probability that a pixel of the region has a higher value than one outside, ties counting half.

    Computed from ranks in float64: U / (n_in · n_out), with mid-ranks for ties.

    Args:
        heatmap: A `Heatmap`, a tensor or an array, `[H, W]`, `[tokens]` or `[features]`.
        region: Boolean, of the same shape.

    Raises:
        InputError: Shapes differ, the heatmap is not finite, or the region is empty or everything.
    """
    values, inside = _check(heatmap, region)
    _, group, count = values.unique(return_inverse=True, return_counts=True)
    last_rank = count.cumsum(0).double()
    mid_rank = last_rank - (count.double() - 1) / 2
    num_inside = int(inside.sum())
    num_outside = len(inside) - num_inside
    rank_sum = float(mid_rank[group[inside]].sum())
    return (rank_sum - num_inside * (num_inside + 1) / 2) / (num_inside * num_outside)


def pointing_game(heatmap: MapLike, region: Tensor | NDArray[np.bool_]) -> bool:
    """Whether the highest value of the heatmap lies in the region.

    If several pixels share the highest value, all of them must lie in the region: an all-zero map is never a hit.

    Raises:
        InputError: As for `pixel_auc`.
    """
    values, inside = _check(heatmap, region)
    return bool(inside[values == values.max()].all())


def _check(heatmap: MapLike, region: Tensor | NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
    values, region = map_values(heatmap), map_values(region)
    if values.dim() not in (1, 2) or values.shape != region.shape or region.dtype != torch.bool:
        raise InputError(
            f"Cannot score a heatmap {list(values.shape)} against a region {list(region.shape)} of type "
            f"{region.dtype}: expected the same shape [H, W], [tokens] or [features], and a boolean region."
        )
    if not bool(torch.isfinite(values).all()):
        raise InputError("Cannot score a heatmap that holds NaN or infinity.")
    if not bool(region.any()) or bool(region.all()):
        raise InputError("Cannot score a heatmap against an empty region or one that covers the whole picture.")
    return values.detach().cpu().flatten().double(), region.cpu().flatten()
