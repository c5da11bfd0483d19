"""The user's model, and every setting of torch, are as before: after a trace, and after a failure at any stage."""

# ruff: noqa: NPY002 - the global random states of NumPy are what is tested

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from references.extraction import SAMPLE, Breaks, Net, extract, make_net, state_of_everything
from torch import Tensor, nn

from spadelens.errors import ModelOutputError, ScheduleError, SolverError, SpadeError
from spadelens.solvers import SOLVERS


def mixed_net() -> Net:
    net = make_net().train()
    net.norm.eval()
    net.stem.weight.requires_grad_(False)
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    return net


def stop_at(stage: str, at_least: int, error: type[BaseException]) -> Callable[[str, int, int], None]:
    def progress(name: str, done: int, total: int) -> None:
        if name == stage and done >= at_least:
            raise error("stopped")

    return progress


def broken_transform(sample: Tensor) -> Tensor:
    torch.rand(2)
    np.random.rand()
    raise RuntimeError("no view")


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("augmentation", ["noise", "paper", lambda x: x + torch.rand(()) * np.random.rand()])
def test_nothing_is_changed_by_success(solver: str, augmentation: object) -> None:
    net, sample = mixed_net(), SAMPLE.clone()
    before = state_of_everything(net)
    trace = extract(net, sample=sample, solver=solver, augmentation=augmentation)
    assert state_of_everything(net) == before
    assert torch.equal(sample, SAMPLE)
    assert not any(weight.requires_grad for weight in trace.weights.values())
    assert not any(
        weight.data_ptr() == net.get_submodule(name).weight.data_ptr() for name, weight in trace.weights.items()
    )


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"progress": stop_at("views", 0, KeyboardInterrupt)}, KeyboardInterrupt),
        ({"progress": stop_at("views", 4, KeyboardInterrupt), "batch_size": 2}, KeyboardInterrupt),
        ({"progress": stop_at("views", 9, ValueError)}, ValueError),
        ({"progress": stop_at("solve", 0, KeyboardInterrupt)}, KeyboardInterrupt),
        ({"progress": stop_at("solve", 2, KeyboardInterrupt)}, KeyboardInterrupt),
        ({"progress": stop_at("check", 1, KeyboardInterrupt)}, KeyboardInterrupt),
        ({"solver": Breaks()}, SolverError),
        ({"augmentation": broken_transform}, RuntimeError),
        ({"sample": SAMPLE[:2]}, ModelOutputError),
        ({"views": torch.zeros(2, 3, 9, 7).fill_(3e38)}, SpadeError),
        ({"layers": ["nothing"]}, ScheduleError),
    ],
)
def test_nothing_is_changed_by_failure(changes: dict[str, Any], error: type[BaseException]) -> None:
    net = mixed_net()
    before = state_of_everything(net)
    with pytest.raises(error):
        extract(net, **changes)
    assert state_of_everything(net) == before


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_users_precision_stays(precision: str) -> None:
    net, before = make_net(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(precision)
        extract(net)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_within_the_users_grad_mode(context: Callable) -> None:
    expected = extract(make_net())
    net = make_net()
    with context():
        trace = extract(net)
    assert torch.is_grad_enabled()
    assert all(torch.equal(trace.weights[name], expected.weights[name]) for name in expected.weights)
    net(SAMPLE[None]).sum().backward()
    assert net.fc.weight.grad is not None


def test_a_train_method_of_the_users_own_is_not_called() -> None:
    class Merging(nn.Sequential):
        merged = False

        def train(self, mode: bool = True) -> "Merging":
            self.merged = not mode
            return super().train(mode)

    model = Merging(nn.Flatten(), nn.Linear(12, 3)).train()
    extract(model, sample=torch.ones(3, 2, 2))
    assert not model.merged and model.training and model[1].training


def test_a_trace_made_in_inference_mode_can_be_differentiated() -> None:
    model = make_net()
    with torch.inference_mode():
        trace = extract(model)
    assert not any(weight.is_inference() for weight in trace.weights.values())
