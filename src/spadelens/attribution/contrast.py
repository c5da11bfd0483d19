"""A model whose first score is the difference of two scores of another model: why this class and not that one."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from spadelens.private_copy import is_private, mark_private


@final
class Contrast(nn.Module):
    """Maps what a model maps to `[B, 2]`: the score of one class minus that of another, and zero.

    Its modules are the model's own, under their own names, so that what is known of the model's layers holds for it.
    """

    def __init__(self, model: nn.Module, target: int, versus: int) -> None:
        """Compare two classes of a model whose scores have been checked.

        Args:
            model: Maps batches of samples to class scores.
            target: The class whose score counts in favor.
            versus: The class whose score counts against.
        """
        super().__init__()
        self._modules, self._parameters, self._buffers = model._modules, model._parameters, model._buffers
        self._whole = (model,)  # in a tuple, so that it is not registered as a part of itself
        self.target, self.versus = target, versus
        self.training = model.training
        if hasattr(model, "input_kind"):
            self.input_kind = model.input_kind
        if is_private(model):
            mark_private(self)

    def forward(self, inputs: Tensor) -> Any:
        """Return the contrast of a batch `[B, ...]` and zero, `[B, 2]`."""
        (model,) = self._whole
        scores = model(inputs)
        contrast = scores[:, self.target] - scores[:, self.versus]
        return torch.stack([contrast, torch.zeros_like(contrast)], dim=1)
