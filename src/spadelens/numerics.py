"""Matrix products at full precision, whatever the user has set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_SETTING = threading.RLock()


def solver_device(device: torch.device) -> torch.device:
    """Return where layers on `device` are solved: there, or on the CPU where it has no float64 (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Compute products within the block in the types of their operands: no TF32, no bfloat16, no autocast.

    For the library's own products, not for the user's model, which keeps the precision that it is run in. A Hessian
    that was rounded to ten bits may not be positive definite. The user's settings are restored.
    """
    with torch.autocast(device.type, enabled=False), _float32_products("ieee", "ieee", "highest"):
        yield


@contextmanager
def rounded_products() -> Iterator[None]:
    """Compute products of float32 within the block as if their operands had been rounded to bfloat16, where that helps.

    Sums are kept in float32. Operands that are rounded already lose nothing: they are numbers of bfloat16 and of TF32.
    """
    with _float32_products("tf32", "bf16", "medium"):
        yield


@contextmanager
def _float32_products(on_cuda: str, on_cpu: str, legacy: str) -> Iterator[None]:
    with _SETTING, _float32_settings(on_cuda, on_cpu, legacy):
        yield


@contextmanager
def _float32_settings(on_cuda: str, on_cpu: str, legacy: str) -> Iterator[None]:
    backends: list[tuple[Any, str]] = [
        (torch.backends.cuda.matmul, on_cuda),
        (getattr(torch.backends.mkldnn, "matmul", None), on_cpu),
    ]
    with_setting = [(backend, precision) for backend, precision in backends if hasattr(backend, "fp32_precision")]
    if with_setting:  # torch 2.9 and later, where reading the older setting fails once the newer one has been used
        before = [backend.fp32_precision for backend, _ in with_setting]
        try:
            for backend, precision in with_setting:
                backend.fp32_precision = precision
            yield
        finally:
            for (backend, _), precision in zip(with_setting, before, strict=True):
                backend.fp32_precision = precision
        return
    legacy_before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(legacy)
        yield
    finally:
        torch.set_float32_matmul_precision(legacy_before)
