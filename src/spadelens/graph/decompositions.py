"""Operations that are recorded as the simpler ones that they consist of, which have rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor


def _added_product(addend: Tensor, first: Tensor, second: Tensor, *, value: float = 1) -> Tensor:
    product = first * second
    total: Tensor = addend + (product if value == 1 else value * product)
    return total


def _gated(values: Tensor, dim: int = -1) -> Tensor:
    first, second = torch.ops.aten.split_copy.Tensor(values, values.shape[dim] // 2, dim)
    gated: Tensor = first * second.sigmoid()
    return gated


DECOMPOSITIONS: Mapping[Any, Callable[..., Tensor]] = MappingProxyType(
    {torch.ops.aten.addcmul.default: _added_product, torch.ops.aten.glu.default: _gated}
)
"""Operators that are recorded as the products and sums that they are."""


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return what `cosine_similarity` does, whose own steps torch cannot trace."""
    first, second = (torch.linalg.vector_norm(x, dim=dim).clamp_min(eps) for x in (x1, x2))
    similarity: Tensor = (x1 * x2).sum(dim) / (first * second)
    return similarity
