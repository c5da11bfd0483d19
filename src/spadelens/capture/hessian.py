"""Statistics of a layer's inputs, accumulated batch by batch: all that solvers know of the inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import final

import torch
from torch import Tensor

from spadelens.numerics import rounded_products


class InputStatistics(ABC):
    """The inputs X of one layer, `[groups, positions, columns]`, reduced to what solvers need.

    Solvers depend on this class only. For layers that see few positions, an implementation can store X itself and never
    compute the Hessian.
    """

    @property
    @abstractmethod
    def num_positions(self) -> int:
        """The number of positions seen so far."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """Return the diagonal of the Hessian, `[groups, columns]`: twice the mean square of each input."""

    @abstractmethod
    def hessian(self) -> Tensor:
        """Return H = 2/N sum x xᵀ, `[groups, columns, columns]`, where N is the number of positions."""

    def inputs(self) -> Tensor | None:
        """Return X `[groups, positions, columns]` if it was stored, for solvers that can work with it, else None."""
        return None

    @abstractmethod
    def mean_squared_output(self, weight: Tensor) -> Tensor:
        """Return the mean over positions of the squared norm of the output of `weight`.

        For a weight `[..., groups, rows, columns]`, the result has the shape of the leading dimensions.
        """

    @abstractmethod
    def add(self, inputs: Tensor) -> None:
        """Add one batch of inputs `[groups, positions, columns]`."""

    @abstractmethod
    def to(self, device: torch.device) -> InputStatistics:
        """Return the same statistics on `device`."""


_NARROW, _POSITIONS_AT_ONCE = 256, 8192


@final
class HessianStatistics(InputStatistics):
    """Accumulates the Hessian of one layer and stores no input.

    With few columns, a matrix product over millions of positions adds them one by one and loses three digits in
    float32. The Hessian of such layers is small, so that it is accumulated in parts, in float64.

    Memory: `groups * columns**2` numbers of `dtype`, or of float64 for up to 256 columns.
    """

    def __init__(
        self, groups: int, columns: int, dtype: torch.dtype, device: torch.device, is_rounded: bool = False
    ) -> None:
        """Start without any position.

        Args:
            groups: The number of groups of the layer.
            columns: The number of columns of each group.
            dtype: The dtype of products and of results.
            device: The device of the sums.
            is_rounded: Whether to round inputs to bfloat16, which is faster on some devices; sums are never rounded.
        """
        self._is_rounded = is_rounded
        self._dtype = dtype
        self._is_narrow = columns <= _NARROW and device.type != "mps"  # MPS has no float64
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
        """Add one batch of inputs `[groups, positions, columns]`."""
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
        """The number of positions seen so far."""
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
        return mean.clamp_min(0.0).to(self._dtype)  # rounding can make values near zero negative

    @property
    def _scale(self) -> float:
        return 2.0 / max(self._num_positions, 1)


@final
class StoredInputs(InputStatistics):
    """Stores the inputs of a layer that sees fewer positions than it has columns.

    Memory: `groups * positions * columns` numbers of `dtype`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """Start without any position; inputs are stored as `dtype`."""
        self._dtype = dtype
        self._batches: list[Tensor] = []

    def to(self, device: torch.device) -> StoredInputs:
        """Return the same statistics on `device`."""
        moved = StoredInputs(self._dtype)
        moved._batches = [batch.to(device) for batch in self._batches]
        return moved

    def add(self, inputs: Tensor) -> None:
        """Store a copy of one batch of inputs `[groups, positions, columns]`."""
        self._batches.append(inputs.detach().to(self._dtype, copy=True))

    @property
    def num_positions(self) -> int:
        """The number of positions seen so far."""
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
        """Return a new tensor `[groups, columns, columns]`; not needed by solvers that use the inputs."""
        inputs = self.inputs()
        return inputs.mT @ inputs * (2.0 / self.num_positions)

    def mean_squared_output(self, weight: Tensor) -> Tensor:
        """Return the mean of ||W x||² over positions, summed over groups."""
        outputs = weight.to(self._dtype) @ self.inputs().mT
        return outputs.square().sum((-3, -2, -1)) / self.num_positions
