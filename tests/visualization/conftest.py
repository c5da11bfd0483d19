"""The small model in both precisions, and a trace of it."""

from typing import Any

import pytest
from references.networks import Normalized, seeded
from references.visualization import make_sample
from torch import nn

from spadelens import Trace, extract_trace


@pytest.fixture
def model() -> Any:
    return seeded(Normalized)


@pytest.fixture
def double() -> Any:
    return seeded(Normalized).double()


@pytest.fixture
def trace(double: nn.Module) -> Trace:
    return extract_trace(double, make_sample(), schedule="0.5", num_views=4)
