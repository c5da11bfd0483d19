"""Validation of models, samples and targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spadelens.eager import refusal, unwrapped
from spadelens.errors import InputError
from spadelens.input_size import warn_of_size


def check_sample(model: nn.Module, sample: Any) -> Tensor:
    """Return `sample`, without a batch dimension, on the device and in the type of `model`.

    A batch of one is taken for the sample in it where the first convolution of the model shows that it is one. A photo
    of another size than the model is known to expect gets a `SampleSizeWarning`.

    Raises:
        InputError: `model` is not a module, or is one whose layers cannot be seen (TorchScript), have no weights to
            prune (quantized) or have not been initialized (lazy); or `sample` is not a non-empty tensor of finite
            floating-point numbers.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"Cannot explain a {type(model).__name__}: expected a torch.nn.Module.")
    if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in model.parameters()):
        raise InputError("Cannot explain a model whose lazy layers have not run yet: run it once on a batch first.")
    reason = refusal(unwrapped(model))
    if reason is not None:
        raise InputError(f"Cannot explain this model: {reason}.")
    expected = "expected a dense tensor of finite floating-point numbers, such as [C, H, W], without a batch dimension"
    if not isinstance(sample, Tensor):
        raise InputError(f"Cannot explain a {type(sample).__name__}: {expected}.")
    if sample.numel() == 0 or sample.dim() == 0 or not sample.is_floating_point():
        raise InputError(f"Cannot explain a tensor of shape {list(sample.shape)} and type {sample.dtype}: {expected}.")
    if sample.is_meta or sample.layout != torch.strided:
        kind = "meta" if sample.is_meta else "sparse"
        raise InputError(f"Cannot explain a {kind} tensor: {expected}.")
    if not bool(torch.isfinite(sample).all()):
        raise InputError(f"Cannot explain a sample that holds NaN or infinity: {expected}.")
    reference = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), sample)
    found: Tensor = sample
    if len(sample) == 1 and sample.dim() > 1 and _num_axes(unwrapped(model)) == sample.dim() - 1:
        found = sample[0]
    warn_of_size(model, found)
    return found.detach().to(reference.dtype).to(reference.device)  # in this order: MPS has no float64


def _num_axes(model: nn.Module) -> int | None:
    """Return how many axes a sample has, as the first convolution of the model shows; None where there is none."""
    for module in model.modules():
        for convolution, count in ((nn.Conv1d, 2), (nn.Conv2d, 3), (nn.Conv3d, 4)):
            if isinstance(module, convolution):
                return count
    return None


def check_target(target: Any, num_classes: int) -> int:
    """Return `target`, an integer of Python, NumPy or torch, as an int if it is the number of a class.

    Raises:
        InputError: It is not.
    """
    is_number = isinstance(target, Tensor) and target.numel() == 1 and not target.dtype.is_floating_point
    if is_number or isinstance(target, np.integer):
        target = target.item()
    if isinstance(target, bool) or not isinstance(target, int) or not 0 <= target < num_classes:
        raise InputError(f"There is no class {target!r}: expected an integer from 0 to {num_classes - 1}.")
    return target
