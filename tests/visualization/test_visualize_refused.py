"""What cannot be visualized is refused with a reason, and the model is left as it was."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from references.networks import Normalized, seeded
from references.visualization import COLOR, GREY, QUICK, dead, same, snapshot
from torch import Tensor, nn

from spadelens import Trace
from spadelens.errors import InputError, ModelOutputError, TraceMismatchError, UnknownNameError, VisualizationError
from spadelens.visualization.ascent import Ascent
from spadelens.visualization.visualization import visualize


def test_the_model_is_left_as_it_was(double: Any, trace: Trace) -> None:
    double.train()
    double.norm.eval()
    double.first.weight.requires_grad_(False)
    before, state = snapshot(double), torch.random.get_rng_state()
    expected = visualize(seeded(Normalized).double(), "second:1", COLOR, QUICK)
    assert torch.equal(visualize(double, "second:1", COLOR, QUICK).images, expected.images)  # without dropout
    visualize(trace, "second:1", COLOR, QUICK)
    with pytest.raises(UnknownNameError):
        visualize(trace, "nowhere:1", COLOR, QUICK)
    with pytest.raises(KeyboardInterrupt):
        visualize(trace, stop, COLOR, QUICK)
    assert same(snapshot(double), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()


def stop(_: nn.Module, batch: Tensor) -> Tensor:
    raise KeyboardInterrupt


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_contexts_without_gradients(model: nn.Module, context: Callable[[], Any]) -> None:
    expected = visualize(model, "class:1", COLOR, QUICK).images
    with context():
        found = visualize(model, "class:1", COLOR, QUICK)
        assert not torch.is_grad_enabled()
    assert torch.equal(found.images, expected)
    assert not found.images.is_inference() and not found.images.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float, model: Any) -> None:
    calls: list[int] = []

    def objective(net: nn.Module, batch: Tensor) -> Tensor:
        calls.append(1)
        return net(batch)[:, 0] + (value if len(calls) == 2 else 0.0)

    with pytest.raises(VisualizationError, match=r"objective.* values that are not finite"):
        visualize(model, objective, COLOR, QUICK)

    def steep(net: nn.Module, batch: Tensor) -> Tensor:
        return (batch * 0).abs().sqrt().sum((1, 2, 3))  # the values are finite, the slopes are not

    with pytest.raises(VisualizationError, match="not finite"):
        visualize(model, steep, COLOR, QUICK)


def test_a_dead_unit_is_refused_and_named(double: Any, trace: Trace) -> None:
    with pytest.raises(VisualizationError, match=r"'relu:2' of the model does not depend on the image"):
        visualize(dead(seeded(Normalized), 2), "relu:2", COLOR, QUICK)
    with pytest.raises(VisualizationError, match="does not depend"):
        visualize(double, lambda net, batch: net(batch).detach()[:, 0], COLOR, QUICK)
    weights = {name: torch.zeros_like(weight) for name, weight in trace.weights.items()}
    nothing = Trace(double, weights, trace.pruned, trace.report, trace.model_fingerprint)
    with pytest.raises(VisualizationError, match=r"'class:1' of the trace does not depend on the image"):
        visualize([double, nothing], "class:1", COLOR, QUICK)


def test_a_model_that_has_changed_is_refused(double: Any, trace: Trace) -> None:
    with torch.no_grad():
        double.linear.bias += 1
    with pytest.raises(TraceMismatchError):
        visualize(trace, "class:0", COLOR, QUICK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_images": 0}, "num_images=0"),
        ({"num_steps": 2.5}, "num_steps=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"parameterization": "macho"}, "Did you mean 'maco'"),
        ({"parameterization": 5}, "Cannot use 5 as a parameterization"),
        ({"transformations": "none"}, "Cannot use 'none' as transformations"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ascent(**settings)


@pytest.mark.parametrize(
    ("unit", "versus", "message"),
    [
        (1, 1, "Cannot compare the class 1 with itself: name another class."),
        ("class:1", 1, "Cannot compare the class 1 with itself"),
        ("second:1", 2, "Cannot compare 'second:1' with class 2: it is not a class."),
        (1, 99, "There is no class 99: expected an integer from 0 to"),
        (1, -1, "There is no class -1: expected an integer from 0 to"),
        (1, "ring", "There is no class 'ring': expected the number of a class."),
        (1, True, "There is no class True: expected the number of a class."),
    ],
)
def test_contrasts_that_cannot_be_used(model: Any, unit: Any, versus: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        visualize(model, unit, COLOR, QUICK, versus=versus)


def test_arguments_that_cannot_be_used(model: Any) -> None:
    for models, unit, shape, message in (
        ([], "0", COLOR, "a sequence of at least one"),
        (["model"], "0", COLOR, "Cannot visualize a unit of a str"),
        ([model], 7.0, COLOR, "Cannot maximize 7.0"),
        ([model], True, COLOR, "Cannot maximize True"),
        ([model], 99, COLOR, "There is no class 99: expected an integer from 0 to"),
        ([model], -1, COLOR, "There is no class -1: expected an integer from 0 to"),
        ([model], "second:99", COLOR, "There is no unit 99"),
        ([model], "0", (3, 0, 5), "expected sizes above zero"),
        ([model], "0", (), "expected sizes above zero"),
        ([model], "0", 224, "expected sizes above zero"),
        ([model], "0", (3, 5), "Use 'direct' for other inputs"),
    ):
        with pytest.raises(InputError, match=message):
            visualize(models, unit, shape, QUICK)  # type: ignore[arg-type]
    with pytest.raises(ModelOutputError, match="cannot be run on a batch"):
        visualize(model, "0", GREY, QUICK)
