"""The device that a model is put on."""

from __future__ import annotations

import torch
from torch import nn

from spadelens.errors import DeviceError


def choose_device(device: str) -> torch.device:
    """Return the device that `device` names; 'auto' is a CUDA device where there is one, else the CPU.

    Raises:
        DeviceError: It is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        float(torch.ones(1, device=chosen))  # 'meta' is a device too, but one that holds no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DeviceError(f"Cannot use the device {device!r}: {reason} Use --device cpu or auto.") from error
    return chosen


def move_model(model: nn.Module, device: torch.device, spec: str) -> None:
    """Put `model` on `device`, in evaluation mode.

    Raises:
        DeviceError: The device has no room for it, or not its type of numbers (float64 on MPS).
    """
    try:
        model.to(device).eval()
    except (RuntimeError, TypeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise DeviceError(f"Cannot put {spec!r} on the device '{device}': {reason} Use --device cpu.") from error
