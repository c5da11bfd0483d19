"""Full-precision products: the user's settings come back."""

from collections.abc import Callable

import pytest
import torch
from references.threads import overlapping

from spadelens.numerics import exact_products, rounded_products


def test_settings_are_readable_and_restored() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            allowed = torch.backends.cuda.matmul.allow_tf32
            with exact_products(torch.device("cpu")):
                pass
            assert torch.get_float32_matmul_precision() == precision
            assert torch.backends.cuda.matmul.allow_tf32 == allowed
            with pytest.raises(KeyError), exact_products(torch.device("cpu")):
                raise KeyError
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
def test_newer_settings_are_restored_and_off_within() -> None:
    backend = torch.backends.cuda.matmul
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "tf32"
        with exact_products(torch.device("cpu")):
            assert backend.fp32_precision == "ieee"
        assert backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


def settings() -> tuple[str, ...]:
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # torch before 2.9
        return (torch.get_float32_matmul_precision(),)
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision


def test_blocks_of_two_threads_leave_the_users_settings() -> None:
    before = settings()

    def exact(wait: Callable[[], None]) -> None:
        with exact_products(torch.device("cpu")):
            wait()

    def rounded(wait: Callable[[], None]) -> None:
        with rounded_products():
            wait()

    for first, second in ((exact, rounded), (rounded, exact)):
        overlapping(first, second)
        assert settings() == before


def test_products_are_exact_within() -> None:
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(64, 64, generator=generator)
    try:
        torch.set_float32_matmul_precision("medium")
        with exact_products(torch.device("cpu")):
            product = a @ a
    finally:
        torch.set_float32_matmul_precision(before)
    assert (product.double() - a.double() @ a.double()).abs().max() < 1e-4
