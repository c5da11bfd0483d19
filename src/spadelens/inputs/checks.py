"""What a sample has to be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spadelens.eager import refusal, unwrapped
from spadelens.errors import InputError


def check_sample(model: nn.Module, sample: Any) -> Tensor:
    """Return `sample` `[C, H, W]` on the device and in the type of `model`.

    Raises:
        InputError: `model` is no module, is one whose layers cannot be seen (TorchScript) or have no weights to prune
            (quantized), or `sample` is not a non-empty tensor of finite floating-point numbers.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"Cannot explain a {type(model).__name__}: expected a torch.nn.Module.")
    reason = refusal(unwrapped(model))
    if reason is not None:
        raise InputError(f"Cannot explain this model: {reason}.")
    expected = "expected a tensor of finite floating-point numbers [C, H, W], without a batch dimension"
    if not isinstance(sample, Tensor):
        raise InputError(f"Cannot explain a {type(sample).__name__}: {expected}.")
    if sample.numel() == 0 or sample.dim() == 0 or not sample.is_floating_point():
        raise InputError(f"Cannot explain a tensor of shape {list(sample.shape)} and type {sample.dtype}: {expected}.")
    if not bool(torch.isfinite(sample).all()):
        raise InputError(f"Cannot explain a sample that holds NaN or infinity: {expected}.")
    reference = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), sample)
    return sample.detach().to(reference.dtype).to(reference.device)  # in this order: MPS has no float64


def check_target(target: Any, num_classes: int) -> int:
    """Return `target` if it is the number of a class.

    Raises:
        InputError: It is not.
    """
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < num_classes:
        raise InputError(f"There is no class {target!r}: expected a whole number from 0 to {num_classes - 1}.")
    return target
