"""A network with layers of every kind, and a trace of it."""

# ruff: noqa: NPY002 - the global random states of NumPy are what is tested

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spadelens.errors import SolverError
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.trace import Trace
from spadelens.solvers import LayerProblem, LayerSolution, Magnitude, Solver

SAMPLE = torch.randn(3, 9, 7, generator=torch.Generator().manual_seed(4))


class Net(nn.Module):
    """Strided, grouped, depthwise and linear layers; dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.grouped = nn.Conv2d(4, 6, (3, 2), stride=2, groups=2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.grouped(self.depthwise(x)))
        return self.fc(self.drop(x).mean((2, 3)))


def make_net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    net = Net()
    net.norm.running_mean.uniform_(-0.2, 0.2)
    net.norm.running_var.uniform_(0.5, 2.0)
    return net


def extract(model: nn.Module, **changes: Any) -> Trace:
    arguments: dict[str, Any] = {
        "schedule": 0.5,
        "solver": "sparsegpt",
        "augmentation": "noise",
        "num_views": 9,
        "positions_per_column": 0,
        "seed": 1,
    }
    arguments |= changes
    return extract_trace(model, arguments.pop("sample", SAMPLE), **arguments)


def state_of_everything(model: nn.Module) -> dict[str, Any]:
    """All that must not change, as values that can be compared with ==."""
    return {
        "bits": {name: tensor.detach().clone().numpy().tobytes() for name, tensor in model.state_dict().items()},
        "identities": {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grads": [None if p.grad is None else p.grad.clone().numpy().tobytes() for p in model.parameters()],
        "hooks": [
            [len(value) for key, value in sorted(vars(module).items()) if key.endswith("_hooks")]
            for module in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "rng": (torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()),
        "grad_mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "precision": (torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32),
        "default": (torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()),
    }


class Breaks(Solver):
    """Fails at the second layer."""

    def solve(self, problem: LayerProblem) -> LayerSolution:
        if problem.name == "grouped":
            raise SolverError("broken on purpose")
        return Magnitude().solve(problem)
