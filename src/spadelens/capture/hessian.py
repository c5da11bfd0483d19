"""What a solver may know of the inputs of a layer, accumulated batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import final

import torch
from torch import Tensor

from spadelens.numerics import rounded_products


class InputStatistics(ABC):
    """The inputs X of one layer, `[groups, positions, columns]`, reduced to what solvers need of them.

    Solvers see this class only. An implementation for layers that see few positions may keep X itself and never form
    the Hessian.
    """

    @property
    @abstractmethod
    def num_positions(self) -> int:
        """How many positions were seen."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """Return the diagonal of the Hessian, `[groups, columns]`: twice the mean square of each input."""

    @abstractmethod
    def hessian(self) -> Tensor:
        """Return H = 2/N sum x xᵀ, `[groups, columns, columns]`, N being the number of positions."""

    def inputs(self) -> Tensor | None:
        """Return X `[groups, positions, columns]` where it was kept, for solvers that work in its space, else None."""
        return None

    @abstractmethod
    def mean_squared_output(self, weight: Tensor) -> Tensor:
        """Return the mean over positions of the squared norm of the output of `weight`.

        For a weight `[..., groups, rows, columns]`, one number for each of its leading dimensions.
        """

    @abstractmethod
    def add(self, inputs: Tensor) -> None:
        """Take in one batch of inputs `[groups, positions, columns]`."""

    @abstractmethod
    def to(self, device: torch.device) -> InputStatistics:
        """Return the same statistics on `device`."""


_NARROW, _POSITIONS_AT_ONCE = 256, 8192


@final
class HessianStatistics(InputStatistics):
    """Accumulates the Hessian of one layer and stores no input.

    A matrix product over millions of positions adds them up one by one where there are few columns, and loses three
    digits in float32. So such layers, of which the Hessian is small, are summed up part by part in float64.

    Memory: `groups * columns**2` numbers of `dtype`, or of float64 for up to 256 columns.
    """

    def __init__(
        self, groups: int, columns: int, dtype: torch.dtype, device: torch.device, is_rounded: bool = False
    ) -> None:
        """Start with no position seen.

        Args:
            groups: Of the layer.
            columns: Of each group.
            dtype: What products are computed in, and what is returned.
            device: Where.
            is_rounded: Whether inputs are rounded to bfloat16, which is faster on some devices; sums never are.
        """
        self._is_rounded = is_rounded
        self._dtype = dtype
        self._is_narrow = columns <= _NARROW and device.type != "mps"  # which has no float64
        kept_in = torch.float64 if self._is_narrow else dtype
        self._sum = torch.zeros(groups, columns, columns, dtype=kept_in, device=device)
        self._num_positions = 0

    def to(self, device: torch.device) -> HessianStatistics:
        """Return the same statistics on `device`."""
        groups, columns = self._sum.shape[:2]
        moved = HessianStatistics(groups, columns, self._dtype, device, self._is_rounded)
        moved._sum.copy_(self._sum)
        moved._num_positions = self._num_positions
        return moved

    def add(self, inputs: Tensor) -> None:
        """Take in one batch of inputs `[groups, positions, columns]`."""
        inputs = inputs.detach().to(self._dtype)
        if self._is_rounded:
            inputs = inputs.bfloat16().to(self._dtype)
        with rounded_products() if self._is_rounded else nullcontext():
            if self._is_narrow:
                for part in inputs.split(_POSITIONS_AT_ONCE, dim=1):
                    self._sum += part.mT @ part
            else:
                self._sum.baddbmm_(inputs.mT, inputs)
        self._num_positions += inputs.shape[1]

    @property
    def num_positions(self) -> int:
        """How many positions were seen."""
        return self._num_positions

    def diagonal(self) -> Tensor:
        """Return the diagonal of the Hessian, `[groups, columns]`."""
        return (self._sum.diagonal(dim1=1, dim2=2) * self._scale).to(self._dtype)

    def hessian(self) -> Tensor:
        """Return a new tensor `[groups, columns, columns]`."""
        return (self._sum * self._scale).to(self._dtype)

    def mean_squared_output(self, weight: Tensor) -> Tensor:
        """Return trace(W H Wᵀ) / 2 summed over groups."""
        weight = weight.to(self._sum.dtype)
        mean = ((weight @ self._sum) * weight).sum((-3, -2, -1)) * (self._scale / 2)
        return mean.clamp_min(0.0).to(self._dtype)  # rounding can make what is almost zero negative

    @property
    def _scale(self) -> float:
        return 2.0 / max(self._num_positions, 1)


@final
class StoredInputs(InputStatistics):
    """Keeps the inputs of a layer that sees fewer positions than it has columns.

    Memory: `groups * positions * columns` numbers of `dtype`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """Start with no position seen; `dtype` is what inputs are kept in."""
        self._dtype = dtype
        self._batches: list[Tensor] = []

    def to(self, device: torch.device) -> StoredInputs:
        """Return the same statistics on `device`."""
        moved = StoredInputs(self._dtype)
        moved._batches = [batch.to(device) for batch in self._batches]
        return moved

    def add(self, inputs: Tensor) -> None:
        """Keep a copy of one batch of inputs `[groups, positions, columns]`."""
        self._batches.append(inputs.detach().to(self._dtype, copy=True))

    @property
    def num_positions(self) -> int:
        """How many positions were seen."""
        return sum(batch.shape[1] for batch in self._batches)

    def inputs(self) -> Tensor:
        """Return the inputs, `[groups, positions, columns]`."""
        if len(self._batches) > 1:
            self._batches = [torch.cat(self._batches, dim=1)]
        return self._batches[0]

    def diagonal(self) -> Tensor:
        """Return the diagonal of the Hessian, `[groups, columns]`."""
        return self.inputs().square().mean(1) * 2

    def hessian(self) -> Tensor:
        """Return a new tensor `[groups, columns, columns]`; solvers that work on the inputs have no use for it."""
        inputs = self.inputs()
        return inputs.mT @ inputs * (2.0 / self.num_positions)

    def mean_squared_output(self, weight: Tensor) -> Tensor:
        """Return the mean of ||W x||² over positions, summed over groups."""
        outputs = weight.to(self._dtype) @ self.inputs().mT
        return outputs.square().sum((-3, -2, -1)) / self.num_positions
