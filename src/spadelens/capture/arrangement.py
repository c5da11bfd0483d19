"""In which order do the inputs of a layer come when several samples run together?"""

from __future__ import annotations

import torch
from torch import Tensor

_TOLERANCE = 0.05
SHARED = 0
"""The order of inputs that are the same whatever the samples, such as a table of relative positions."""


def project(entries: Tensor) -> Tensor:
    """Return one number for each of `entries` `[entries, ...]`, a random projection of it, in float32 at least."""
    rows = entries.flatten(1)
    dtype = torch.promote_types(rows.dtype, torch.float32)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float32)
    return rows.to(dtype) @ direction.to(rows.device, dtype)


def find_order(alone: Tensor, together: Tensor) -> int | None:
    """Return in how many pieces what belongs to one sample comes, from projections of what a layer gets.

    What it gets of a batch is `[pieces, samples, rest]`: one piece where it comes sample by sample, as many as there
    are tokens where it comes place by place.

    Args:
        alone: For a sample, `[entries]`.
        together: For a batch of that sample and another.

    Returns:
        The number of pieces; `SHARED` where both get the same; None where neither is found.
    """
    count = len(alone)
    if len(together) == count:
        return SHARED if _is_close(alone, together) else None
    if count == 0 or len(together) != 2 * count:
        return None
    tried = [pieces for pieces in range(1, count + 1) if count % pieces == 0]
    parts = torch.stack([together.unflatten(0, (pieces, 2, -1))[:, 0].flatten() for pieces in tried])
    errors = (parts - alone).square().mean(1).sqrt().tolist()
    best = min(errors)
    if not best <= _TOLERANCE * _size(alone):
        return None
    close_to_best = 4 * best + 1e-6 * _size(alone)  # where several fit, as for equal tokens, it does not matter which
    return next(pieces for pieces, error in zip(tried, errors, strict=True) if error <= close_to_best)


def by_sample(entries: Tensor, order: int, num_samples: int) -> Tensor | None:
    """Return `entries` `[entries, ...]` of a batch sample by sample, or None where they do not fit the order."""
    if order == SHARED:
        return entries.expand(num_samples, *entries.shape).flatten(0, 1)
    if len(entries) % (order * num_samples):
        return None
    if order == 1:
        return entries
    pieces: Tensor = entries.unflatten(0, (order, num_samples, -1))
    return pieces.transpose(0, 1).flatten(0, 2)


def _is_close(one: Tensor, other: Tensor) -> bool:
    return _size(one - other) <= _TOLERANCE * _size(one)


def _size(values: Tensor) -> float:
    return float(values.square().mean().sqrt()) if values.numel() else 0.0
