"""Half precision, and devices that have no float64."""

from typing import Any

import pytest
import torch
from references.architectures import build
from references.device import DEVICE, Elsewhere, device_without_float64, put_there
from torch import Tensor, nn

from spadelens import extract_trace, extract_traces
from spadelens.capture.capture import probe
from spadelens.extraction.pipeline.accumulate import Batches, PositionSampler, gather_statistics
from spadelens.extraction.pipeline.plan import Sampling, make_plan
from spadelens.metrics.agreements import agreement
from spadelens.schedules.schedule import Uniform
from spadelens.solvers import SOLVERS
from spadelens.views.view_source import augmented_views


def conv_net() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2, padding=1), nn.GELU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip
    return model.eval(), torch.randn(3, 12, 11)


MODELS = {"conv_net": conv_net, "vit": lambda: build("vit"), "gpt2": lambda: build("hf_gpt2")}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MODELS)
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    model, sample = MODELS[name]()
    precise = extract_trace(model, sample, schedule=0.5, num_views=9)
    model = model.to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace = extract_trace(model, sample, schedule=0.5, num_views=9)
    assert {weight.dtype for weight in trace.weights.values()} == {dtype}
    assert list(trace.weights) == list(precise.weights)
    for name, pruned in trace.pruned.items():
        assert int(pruned.sum()) == int(precise.pruned[name].sum())
        assert torch.isfinite(trace.weights[name]).all() and not trace.weights[name][pruned].any()
    for layer, expected in zip(trace.report.pruned_layers, precise.report.pruned_layers, strict=True):
        assert layer.error == pytest.approx(expected.error, rel=0.1, abs=0.01)
    assert agreement(trace, sample.to(dtype)[None]) in (0.0, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver_in_half_precision(solver: str) -> None:
    model, sample = build("hf_gpt2")
    trace = extract_trace(model.bfloat16(), sample, schedule=0.5, solver=solver, num_views=4)
    assert len(trace.weights) == 9 and all(layer.error < 0.2 for layer in trace.report.pruned_layers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_are_float32(dtype: torch.dtype) -> None:
    model, sample = conv_net()
    model, sample = model.to(dtype), sample.to(dtype)
    plan = make_plan(model, probe(model, sample), Uniform(0.5), ["7"], Sampling(40), 1024)
    source = augmented_views(sample, "noise", 40, 0)
    inputs = torch.cat([model[:7](batch) for batch in source.batches(40)]).detach().double()
    (found,) = gather_statistics(
        model, plan, ["7"], Batches([source], 40), PositionSampler(plan, 0), "float32", lambda _: None
    )
    hessian = found["7"].hessian()[0]
    assert hessian.dtype == torch.float32
    torch.testing.assert_close(hessian.double(), 2 / 40 * inputs.T @ inputs, rtol=1e-5, atol=1e-6)


# A device as MPS is one


def test_the_device_is_one_without_float64() -> None:
    with device_without_float64():
        there = torch.ones(2, 3).to(DEVICE)
        assert there.device == DEVICE and (there + 1).device == DEVICE and there.cpu().device.type == "cpu"
        assert float(there.sum()) == 6 and there.cpu().double().dtype == torch.float64
        assert torch.zeros(2, device=DEVICE).to(there).device == DEVICE
        for wrong in (there.double, there.numpy, lambda: there.sum(dtype=torch.float64).float()):
            with pytest.raises(TypeError):
                wrong()
        with pytest.raises(TypeError, match="no float64"):
            torch.ones(2, dtype=torch.float64).to(DEVICE)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(2, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"preset": "instant"},
        {"preset": "fast"},
        {"preset": "balanced"},
        {"preset": "balanced", "precision": "bfloat16", "memory_budget_mib": 1},
        {"preset": "paper", "num_views": 12},
        {"preset": "paper-fast", "num_views": 12},
        {"schedule": 0.5, "solver": "magnitude", "batch_size": 1},
        {"schedule": "auto:criterion=insertion"},
    ],
)
@pytest.mark.parametrize("name", ["conv_net", "vit"])
def test_nothing_is_float64_on_a_device_that_has_none(name: str, settings: dict[str, Any]) -> None:
    model, sample = MODELS[name]()
    expected = extract_trace(model, sample, **settings)
    put_there(model)
    with device_without_float64():
        trace = extract_trace(model, Elsewhere(sample), **settings)
        assert {weight.device for weight in (*trace.weights.values(), *trace.pruned.values())} <= {DEVICE}
        assert [layer.outcome for layer in trace.report.layers] == [layer.outcome for layer in expected.report.layers]
        for name, weight in trace.weights.items():
            torch.testing.assert_close(weight.cpu(), expected.weights[name], rtol=2e-2, atol=2e-2)


def test_several_samples_on_a_device_that_has_no_float64() -> None:
    model, sample = conv_net()
    put_there(model)
    with device_without_float64():
        samples = [Elsewhere(sample), Elsewhere(sample.flip(-1))]
        first, _ = extract_traces(model, samples, schedule=0.5, num_views=3, batch_size=5)
        assert {weight.device for weight in first.weights.values()} == {DEVICE}
