"""Networks of a few operations, and what comes back to them by the restatement of `references.lrp`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from references import lrp as reference
from spadelens.methods.lrp import LRP

EPSILON = 0.07


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """A function with a few layers, in float64."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.double().eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def relevance(model: nn.Module, sample: Tensor, target: int = 0, **settings: Any) -> Tensor:
    settings = {"rule": "epsilon-plus", "epsilon": EPSILON, **settings}
    return LRP(**{"stabilizer": settings["epsilon"], **settings}).attribute(model.eval(), sample, target).values


def flat(values: Tensor) -> list[float]:
    return values.detach().flatten().tolist()


def close(found: Tensor, wanted: list[float]) -> None:
    np.testing.assert_allclose(found.flatten(), wanted, rtol=1e-9, atol=1e-10 * np.abs(wanted).max())


def of_head(head: nn.Linear, values: Tensor, target: int = 0) -> list[float]:
    """Return the relevance of the values that a last linear layer is called with, by the rule epsilon."""
    outputs = flat(head(values))
    given = [score if number == target else 0.0 for number, score in enumerate(outputs)]
    layer = reference.dense(head.weight.data)
    return reference.propagate(layer, head.bias.tolist(), flat(values), given, epsilon=EPSILON)


def of_linear(layer: nn.Linear, values: Tensor, given: list[float]) -> list[float]:
    """Return the relevance of tokens `[1, tokens, features]`, each of which a linear layer is applied to."""
    rows, size = values.detach()[0], layer.out_features
    return [
        part
        for number, row in enumerate(rows)
        for part in reference.propagate(
            reference.dense(layer.weight.data),
            layer.bias.tolist(),
            flat(row),
            given[number * size : (number + 1) * size],
            epsilon=EPSILON,
        )
    ]


def of_average(values: Tensor, given: list[float]) -> list[float]:
    """Return the relevance of values `[1, channels, ...]` of whose channels means are taken."""
    channels, size = values.shape[1], values[0, 0].numel()
    layer = [{channel * size + place: 1 / size for place in range(size)} for channel in range(channels)]
    return reference.propagate(layer, [0.0] * channels, flat(values), given, epsilon=EPSILON)
