"""Functions as models, and what they are shown: float64, on odd shapes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

PHOTO, TARGET = (1, 2, 7, 9), 1


class Function(nn.Module):
    """A function without layers."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(inputs)


def sample_of(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Random numbers of a shape, the same for the same seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
