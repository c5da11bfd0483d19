"""The small model in both precisions, and a trace of it."""

from typing import Any

import pytest
from references.visualization import Small, make_sample, seeded
from torch import nn

from spadelens import Trace, extract_trace


@pytest.fixture
def model() -> Any:
    return seeded(Small)


@pytest.fixture
def double() -> Any:
    return seeded(Small).double()


@pytest.fixture
def trace(double: nn.Module) -> Trace:
    return extract_trace(double, make_sample(), schedule="0.5", num_views=4)
