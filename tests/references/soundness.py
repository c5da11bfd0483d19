"""Small models, methods that are wrong in a known way, and the checks of what they say."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from references.networks import seeded
from spadelens import attribute
from spadelens.attribution.soundness import Soundness
from spadelens.methods.method import Attribution, Method

Say = Callable[[nn.Module, Tensor, int], Attribution]


SHAPE = (2, 7, 9)


SAMPLE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


ROW = SAMPLE.flatten()[:6]


UNKNOWN_CLASS = "Cannot tell whether the map depends on the class: "


def made(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    return seeded(build, seed).double()


def rows(activation: nn.Module, seed: int = 0) -> nn.Module:
    return made(lambda: nn.Sequential(nn.Linear(6, 8), activation, nn.Linear(8, 3)), seed)


def fake(say: Say, reference: str | None = None, most_missed: float | None = None) -> Method:
    members = {
        "attribute": lambda _, model, sample, target: say(model, sample, target),
        "reference": reference,
        "most_missed": most_missed,
    }
    method: Method = dataclass(frozen=True)(type("Fake", (Method,), members))()
    return method


def saying(**parts: Any) -> Say:
    """A fake that says the same whatever the model."""
    return lambda _model, sample, _target: Attribution(
        **{**parts, "values": parts["values"].to(sample).expand(sample.shape)}
    )


def check(model: nn.Module, method: Method | str, sample: Tensor = SAMPLE, target: int | None = None) -> Soundness:
    found = attribute(model, sample, method, target=target).soundness
    assert found is not None
    json.dumps(asdict(found), allow_nan=False)
    return found


def gradient(model: nn.Module, sample: Tensor, target: int) -> Tensor:
    point = sample.detach().clone().requires_grad_()
    return torch.autograd.grad(model(point)[0, target], point)[0]


def cosine(first: Tensor, second: Tensor) -> float:
    return float((first * second).sum() / (first.square().sum() * second.square().sum()).sqrt())
