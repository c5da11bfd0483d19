"""Choosing a device and moving a model to it."""

from __future__ import annotations

import torch
from torch import nn

from spadelens.errors import DeviceError


def choose_device(device: str) -> torch.device:
    """Return the device that `device` names; 'auto' is a CUDA device if there is one, otherwise the CPU.

    Raises:
        DeviceError: The device is not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        float(torch.ones(1, device=chosen))  # rejects 'meta', a device that holds no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DeviceError(f"Cannot use the device {device!r}: {reason} Use --device cpu or auto.") from error
    return chosen


def move_model(model: nn.Module, device: torch.device, spec: str) -> None:
    """Move `model` to `device` and put it in evaluation mode.

    Raises:
        DeviceError: The device has too little memory or does not support the model's type (float64 on MPS).
    """
    try:
        model.to(device).eval()
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DeviceError(f"Cannot move {spec!r} to the device '{device}': {reason} Use --device cpu.") from error
