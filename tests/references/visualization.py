"""Small models to visualize."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.photos import Preprocessing
from spadelens.visualization.ascent import Ascent

GREY = Preprocessing((63, 50), (0.4,), (0.25,))
COLOR = Preprocessing((10, 13), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
QUICK = Ascent(num_steps=4)


def make_sample(seed: int = 3) -> Tensor:
    return torch.randn(3, 10, 13, generator=torch.Generator().manual_seed(seed))


def snapshot(model: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()}
    for name, module in model.named_modules():
        state[f"{name} mode"] = module.training
        state[f"{name} hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    for name, parameter in model.named_parameters():
        state[f"{name} parameter"] = (id(parameter), parameter.requires_grad, parameter.grad, parameter.data_ptr())
    return state


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key]
        for key, value in first.items()
    )


def dead(model: Any, channel: int) -> Any:
    with torch.no_grad():
        model.first.weight[channel] = 0
        model.first.bias[channel] = -1
        model.norm.bias[channel] = -3
        model.norm.running_mean[channel] = 0
    return model
