"""Private copies share the parameters' memory, run in evaluation mode, and keep what is done to them to themselves."""

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spadelens import extract_trace
from spadelens.errors import InputError, ModelOutputError
from spadelens.extraction.trace import runnable
from spadelens.forward import class_scores
from spadelens.private_copy import ensure_private, is_private, private_copy
from spadelens.randomness import seeded

BATCH = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))


class Awkward(nn.Module):
    """Tied weights, a counter, tensors and modules that are not registered, a bound method."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.hidden = [nn.Linear(4, 3)]
        self.scale = (torch.ones(3, requires_grad=True) * 2).relu()  # not a leaf: deepcopy alone refuses it
        self.register_buffer("calls", torch.zeros(()))
        self.head = self.project

    def project(self, values: Tensor) -> Tensor:
        return self.hidden[0](values) * self.scale

    def forward(self, batch: Tensor) -> Tensor:
        self.calls += 1
        self.scale.data.mul_(1.0)
        return self.head(self.second(self.first(batch).relu()))


def test_a_copy_computes_the_same_on_the_same_memory() -> None:
    torch.manual_seed(0)
    model = Awkward()
    copied = private_copy(model)
    assert isinstance(copied, Awkward)
    assert copied.first.weight.data_ptr() == model.first.weight.data_ptr()
    assert copied.first.weight is copied.second.weight is not model.first.weight
    assert copied.hidden[0] is not model.hidden[0] and copied.head.__self__ is copied
    assert torch.equal(copied(BATCH), model(BATCH))
    assert float(model.calls) == 1 == float(copied.calls)


def test_functions_that_refer_to_the_model_refer_to_the_copy() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    model.forward = lambda batch: model[1](model[0](batch))
    model[1].register_forward_hook(lambda _, __, output: output + model[0].bias[0])
    zeros = {"0": torch.zeros(3, 4), "1": torch.zeros(2, 3)}
    expected = (model[1].bias + model[0].bias[0]).expand(2, 2)
    assert torch.equal(private_copy(model, zeros)(BATCH), expected)
    assert not torch.equal(model(BATCH), expected)


def recursive(layer: nn.Module) -> Callable[[Tensor, int], Tensor]:
    def run(batch: Tensor, times: int = 2) -> Tensor:
        return layer(batch) if times == 0 else run(batch, times - 1)

    return run


REFERRING: dict[str, Callable[[nn.Module], Any]] = {
    "closure": lambda owner: lambda batch: owner.layer(batch),
    "closure in a closure": lambda owner: (lambda inner: lambda batch: inner(batch))(lambda batch: owner.layer(batch)),
    "bound method": lambda owner: owner.layer.forward,
    "bound method in a closure": lambda owner: (lambda method: lambda batch: method(batch))(owner.layer.forward),
    "parameters": lambda owner: (lambda w, b: lambda batch: batch @ w.T + b)(owner.layer.weight, owner.layer.bias),
    "container in a closure": lambda owner: (lambda layers: lambda batch: layers[0](batch))([owner.layer]),
    "default": lambda owner: lambda batch, layer=owner.layer: layer(batch),
    "keyword default": lambda owner: lambda batch, *, layer=owner.layer: layer(batch),
    "partial": lambda owner: partial(lambda layer, batch: layer(batch), owner.layer),
    "partial of a closure": lambda owner: partial(lambda batch: owner.layer(batch)),
    "recursion": lambda owner: recursive(owner.layer),
}


@pytest.mark.parametrize("held_in", ["attribute", "list", "dict"])
@pytest.mark.parametrize("kind", REFERRING)
def test_no_function_reaches_the_weights_of_the_model(kind: str, held_in: str) -> None:
    class Referring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            function = REFERRING[kind](self)
            self.run: Any = {"attribute": function, "list": [function], "dict": {0: function}}[held_in]

        def forward(self, batch: Tensor) -> Tensor:
            result: Tensor = (self.run if held_in == "attribute" else self.run[0])(batch)
            return result

    model = Referring()
    expected = model(BATCH)
    assert torch.equal(private_copy(model)(BATCH), expected)
    assert torch.equal(private_copy(model, {"layer": torch.zeros(3, 4)})(BATCH), model.layer.bias.expand(2, 3))
    assert torch.equal(model(BATCH), expected)


def test_a_function_of_a_script_refers_to_the_copy() -> None:
    script = {"nn": nn}
    exec("model = nn.Sequential(nn.Linear(4, 3))\nmodel.forward = lambda batch: model[0](batch)", script)
    model: Any = script["model"]
    assert torch.equal(private_copy(model, {"0": torch.zeros(3, 4)})(BATCH), model[0].bias.expand(2, 3))
    assert script["model"] is model


def test_what_a_hook_collects_goes_where_it_always_does() -> None:
    model, seen = nn.Sequential(nn.Linear(4, 3)), []
    held: list[Any] = []
    held.append(held)
    model[0].register_forward_hook(lambda _, __, output: seen.append(output) if held else None)
    outputs = private_copy(model)(BATCH)
    assert len(seen) == 1 and seen[0] is outputs


def test_everything_is_in_evaluation_mode_and_the_model_stays_as_it_is() -> None:
    model = Awkward()
    copied = private_copy(model)
    assert not any(module.training for module in (*copied.modules(), *copied.hidden))
    assert all(module.training for module in (*model.modules(), *model.hidden))


def test_given_weights_are_held_by_the_copy_alone() -> None:
    model = Awkward()
    before = model.first.weight.clone()
    copied = private_copy(model, {"first": torch.zeros(4, 4)})
    assert not copied.first.weight.any() and not copied.second.weight.any()
    assert torch.equal(model.first.weight, before)
    copied.first.bias.data = torch.full((4,), 7.0)
    assert not (model.first.bias == 7).any()


def test_a_copy_is_made_once() -> None:
    model = nn.Linear(4, 2)
    copied = ensure_private(model)
    assert is_private(copied) and not is_private(model) and ensure_private(copied) is copied


def test_a_model_of_inference_mode_can_be_differentiated_through() -> None:
    with torch.inference_mode():
        model = nn.Linear(4, 2)
    inputs = BATCH.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(private_copy(model)(inputs)[:, 0].sum(), inputs)
    assert torch.equal(gradient[0], model.weight[0].clone())


def test_what_cannot_be_copied_is_refused() -> None:
    model = nn.Linear(4, 2)
    model.lock = threading.Lock()
    with pytest.raises(InputError, match=r"copy of its modules.*lock.*__deepcopy__"):
        class_scores(model, BATCH)


def draw() -> tuple[float, float, float]:
    return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002 - the global state is meant


class Drawing(nn.Linear):
    def forward(self, batch: Tensor) -> Tensor:
        draw()
        return super().forward(batch)


def test_a_model_that_draws_random_numbers_leaves_the_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # whatever threads the runner of the tests has
    model = Drawing(4, 2)
    with seeded(1):
        expected = draw()
    with seeded(1):
        class_scores(model, BATCH)
        assert draw() == expected


def test_exit_in_a_forward_pass_is_an_error_of_the_model() -> None:
    class Exits(nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            raise SystemExit(0)

    with pytest.raises(ModelOutputError, match="SystemExit"):
        class_scores(Exits(), BATCH)


class Indirect(nn.Module):
    """Reaches its layers through a function in a dict, and holds a tensor that is not a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = (torch.ones(3, requires_grad=True) * 2).relu()
        self.run = {"scores": lambda batch: self.second(self.first(batch).relu()) * self.scale}

    def forward(self, batch: Tensor) -> Tensor:
        scores: Tensor = self.run["scores"](batch)
        return scores


def test_a_sparse_copy_holds_the_sparse_weights_wherever_they_are_used() -> None:
    torch.manual_seed(0)
    model, sample = Indirect().train(), torch.randn(6)
    trace = extract_trace(model, sample, schedule=0.6, num_views=3, kind="row")
    sparse, batch = trace.sparse_copy(), sample.unsqueeze(0)
    assert torch.equal(sparse(batch), runnable(trace)(batch))
    assert not torch.equal(sparse(batch), model(batch))
    assert sparse.training and not is_private(sparse)
    for copied, original in zip(sparse.parameters(), model.parameters(), strict=True):
        assert copied.untyped_storage().data_ptr() != original.untyped_storage().data_ptr()
        assert copied.requires_grad == original.requires_grad
