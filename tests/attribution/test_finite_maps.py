"""A map that is not finite is an error, wherever its numbers have overflowed."""

import pytest
import torch
from torch import nn

from spadelens import attribute
from spadelens.errors import AttributionError


def test_a_reduction_that_overflows_is_an_error() -> None:
    linear = nn.Linear(12, 2)
    linear.weight.data = torch.full((2, 12), 3e38) * torch.tensor([1.0, -1.0]).repeat(6)
    model = nn.Sequential(nn.Flatten(), linear)
    sample = torch.full((3, 2, 2), 1e-3)
    assert bool(
        torch.isfinite(attribute(model, sample, "saliency", target=0, reduction="max_abs", check=False).values).all()
    )
    with pytest.raises(AttributionError, match=r"sum_abs.*overflows in torch.float32.*max_abs"):
        attribute(model, sample, "saliency", target=0, check=False)
