"""DeepLIFT's promise: relevances add up to the change of the score."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from references.networks import TARGET, Function
from spadelens.methods.deep_lift import DeepLift
from spadelens.methods.method import Attribution


def change_of(model: nn.Module, sample: Tensor, baseline: float = 0.0) -> float:
    with torch.no_grad():
        return float((model(sample.clone()) - model(torch.full_like(sample, baseline)))[0, TARGET])


def complete(model: nn.Module, sample: Tensor, baseline: float = 0.0) -> Attribution:
    """Attribute, and check that all of the change is there, and that the delta says so."""
    model = model.double().eval()
    found = DeepLift(baseline).attribute(model, sample, TARGET)
    change = change_of(model, sample, baseline)
    assert abs(change) > 1e-4
    assert found.values.shape == sample.shape
    assert abs(float(found.values.sum()) - change) < 1e-9 * abs(change)
    assert found.convergence_delta == pytest.approx(float(found.values.sum()) - change, abs=1e-12 * abs(change))
    return found


def ends_of(function: Callable[[Tensor], Tensor], values: list[float], baseline: float = 0.0) -> list[float]:
    """Return the values of a row in which `function` gives one number, the score of class 1 of 2."""
    model = Function(lambda x: torch.stack([0 * x.sum(), function(x[0])])[None])
    found = complete(model, torch.tensor([values], dtype=torch.float64), baseline)
    result: list[float] = found.values[0].tolist()
    return result


class HandMadeNorm(nn.Module):
    """RMS normalization as it is written in language models."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * torch.rsqrt(inputs.pow(2).mean(-1, keepdim=True) + 1e-6)
