"""What a solver may know of the inputs of a layer, accumulated batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor


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
        """Return the mean over positions of the squared norm of the output of `weight` `[groups, rows, columns]`."""


@final
class HessianStatistics(InputStatistics):
    """Accumulates the Hessian of one layer and stores no input.

    Memory: `groups * columns**2` numbers of `dtype`.
    """

    def __init__(self, groups: int, columns: int, dtype: torch.dtype, device: torch.device) -> None:
        """Start with no position seen; `dtype` is what sums are kept in."""
        self._sum = torch.zeros(groups, columns, columns, dtype=dtype, device=device)
        self._num_positions = 0

    def to(self, device: torch.device) -> HessianStatistics:
        """Return the same statistics on `device`."""
        moved = HessianStatistics(0, 0, self._sum.dtype, device)
        moved._sum, moved._num_positions = self._sum.to(device), self._num_positions
        return moved

    def add(self, inputs: Tensor) -> None:
        """Take in one batch of inputs `[groups, positions, columns]`."""
        inputs = inputs.detach().to(self._sum.dtype)
        self._sum.baddbmm_(inputs.transpose(1, 2), inputs)
        self._num_positions += inputs.shape[1]

    @property
    def num_positions(self) -> int:
        """How many positions were seen."""
        return self._num_positions

    def diagonal(self) -> Tensor:
        """Return the diagonal of the Hessian, `[groups, columns]`."""
        return self._sum.diagonal(dim1=1, dim2=2) * self._scale

    def hessian(self) -> Tensor:
        """Return a new tensor `[groups, columns, columns]`."""
        return self._sum * self._scale

    def mean_squared_output(self, weight: Tensor) -> Tensor:
        """Return trace(W H Wᵀ) / 2 summed over groups, a scalar."""
        weight = weight.to(self._sum.dtype)
        mean = ((weight @ self._sum) * weight).sum() * (self._scale / 2)
        return mean.clamp_min(0.0)  # rounding can make what is almost zero negative

    @property
    def _scale(self) -> float:
        return 2.0 / max(self._num_positions, 1)
