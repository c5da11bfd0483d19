"""Batches of rows with supports of similar size, within a memory limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class BatchBytes(NamedTuple):
    """The maximum memory of a batch, in bytes."""

    on_cpu: int
    elsewhere: int


_BATCH_BYTES = BatchBytes(on_cpu=64 * 2**20, elsewhere=2**30)


@dataclass(frozen=True, eq=False)
class SupportBatch:
    """The supports of some rows, each padded to the size of the largest.

    Attributes:
        items: The indices of the rows among all rows of all groups, `[items]`.
        units: The units of each support in ascending order, then padding: units outside the support,
            `[items, width]`.
        is_padding: Boolean `[items, width]`.
    """

    items: Tensor
    units: Tensor
    is_padding: Tensor

    def columns(self, unit: int) -> tuple[Tensor, Tensor]:
        """Return the columns of the units, `unit` columns each, and which of them are padding, `[items, columns]`."""
        return columns_of(self.units, unit), self.is_padding.repeat_interleave(unit, dim=1)


def batches_of_supports(supports: Tensor, batch_size: Callable[[int], int]) -> Iterator[SupportBatch]:
    """Yield all supports in batches, in descending order of size, so that little is padded.

    Args:
        supports: Boolean `[items, units]`.
        batch_size: Called with the width of the next batch, at least 1; returns the maximum number of its rows.
    """
    sizes = supports.sum(-1)
    by_size = sizes.argsort(stable=True, descending=True)
    members_first = supports.to(torch.uint8).argsort(dim=-1, stable=True, descending=True)
    start = 0
    while start < len(by_size):
        width = max(1, int(sizes[by_size[start]]))
        items = by_size[start : start + batch_size(width)]
        start += len(items)
        units = members_first[items, :width]
        yield SupportBatch(items, units, ~supports[items].gather(1, units))


def items_per_batch(item_bytes: int, device: torch.device, limit: BatchBytes | None = None) -> int:
    """Return how many items of `item_bytes` each fit into a batch on `device`, at least 1.

    By default, a batch takes up to 64 MiB on a CPU and 1 GiB elsewhere.
    """
    on_cpu, elsewhere = limit or _BATCH_BYTES
    return max(1, (on_cpu if device.type == "cpu" else elsewhere) // item_bytes)


def columns_of(units: Tensor, unit: int) -> Tensor:
    """Return the columns of the units `[items, count]`, `[items, count * unit]`."""
    if unit == 1:
        return units
    return (units.unsqueeze(-1) * unit + torch.arange(unit, device=units.device)).flatten(1)
