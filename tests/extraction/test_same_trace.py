"""The same trace, however it is computed."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from references.extraction import SAMPLE, Net, extract, make_net
from torch import Tensor, nn

from spadelens.extraction.report import Outcome
from spadelens.extraction.trace import Trace


def assert_same_trace(one: Trace, other: Trace, is_exact: bool = True) -> None:
    assert list(one.weights) == list(other.weights)
    for name in one.weights:
        assert torch.equal(one.pruned[name], other.pruned[name])
        tolerance = 0.0 if is_exact else 1e-9
        torch.testing.assert_close(one.weights[name], other.weights[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("solver", ["obc", "sparsegpt:unit=kernel", "wanda"])
@pytest.mark.parametrize("augmentation", ["noise", "paper"])
def test_batch_sizes_do_not_matter(solver: str, augmentation: str) -> None:
    net = make_net().double()
    changes = {"sample": SAMPLE.double(), "solver": solver, "augmentation": augmentation, "num_views": 33}
    traces = [extract(net, batch_size=size, **changes) for size in (1, 7, 32)]
    for trace in traces[1:]:
        assert_same_trace(traces[0], trace, is_exact=False)


def test_the_seed_decides() -> None:
    net = make_net()
    assert_same_trace(extract(net, seed=5), extract(net, seed=5))
    one, other = extract(net, seed=5), extract(net, seed=6)
    assert any(not torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_a_budget_that_forces_several_passes_changes_nothing() -> None:
    # Hessians of 0.14, 0.34 and 0.47 MiB fit one together; a fourth of 0.34 MiB does not. They are formed as there are
    # more views than columns.
    torch.manual_seed(0)
    sizes = [189, 300, 350, 300, 4]
    linear = [nn.Linear(size, next_size) for size, next_size in itertools.pairwise(sizes)]
    model = nn.Sequential(nn.Flatten(), *linear)
    stages: list[tuple[str, int, int]] = []
    changes: dict[str, Any] = {"solver": "wanda", "num_views": 400, "batch_size": 16}
    small = extract(model, memory_budget_mib=1, progress=lambda *stage: stages.append(stage), **changes)
    assert_same_trace(small, extract(model, **changes))
    views = [(done, total) for stage, done, total in stages if stage == "views"]
    assert len({total for _, total in views}) == 1 and views[-1] == (800, 800)  # two passes
    assert [done for done, _ in views] == sorted(done for done, _ in views)
    assert ("solve", 4, 4) in stages and stages[-1] == ("check", 50, 50)


def test_a_layer_whose_hessian_is_larger_than_the_budget_stays_dense() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(600, 8), nn.ReLU(), nn.Linear(8, 3))  # 1.4 MiB, and 256 bytes
    sample = torch.randn(6, 10, 10)
    formed = extract(model, sample=sample, memory_budget_mib=1, num_views=601, batch_size=32)
    layers = {layer.name: layer for layer in formed.report.layers}
    assert layers["1"].outcome is Outcome.TOO_LARGE and layers["1"].error is None
    assert "1 MiB" in layers["1"].detail
    assert layers["3"].outcome is Outcome.PRUNED
    few_views = extract(model, sample=sample, memory_budget_mib=1)  # it keeps the inputs, and forms no Hessian
    assert {layer.outcome for layer in few_views.report.layers} == {Outcome.PRUNED}


def test_views_as_tensor_list_and_generator() -> None:
    net = make_net()
    views = torch.stack([SAMPLE * factor for factor in (1.0, 0.9, 1.1, -1.0, 0.5)])

    def batches() -> Iterator[Tensor]:
        yield views[:2]
        yield views[2:]

    expected = extract(net, views=views)
    for given in ([views[:2], views[2:]], batches(), views.double()):
        assert_same_trace(expected, extract(net, views=given))
    assert expected.report.settings["augmentation"] == "given" and expected.report.settings["num_views"] == 5
    assert all(layer.held_out_error is None for layer in expected.report.layers)


def test_a_model_in_training_mode_is_run_in_evaluation_mode() -> None:
    assert_same_trace(extract(make_net().train()), extract(make_net().eval()))


def test_float64_and_other_memory_formats() -> None:
    trace = extract(make_net().double())
    assert {weight.dtype for weight in trace.weights.values()} == {torch.float64}
    single = extract(make_net())
    for name, weight in trace.weights.items():
        torch.testing.assert_close(single.weights[name].double(), weight, rtol=1e-3, atol=1e-4)
    last = extract(make_net().to(memory_format=torch.channels_last))
    assert_same_trace_roughly(last, single)


def assert_same_trace_roughly(one: Trace, other: Trace) -> None:
    for name in one.weights:
        torch.testing.assert_close(one.weights[name], other.weights[name], rtol=1e-3, atol=1e-4)


def test_sparsity_zero_gives_the_dense_model() -> None:
    trace = extract(make_net(), schedule=0.0)
    assert dict(trace.weights) == {} and trace.report.original_prediction == trace.report.trace_prediction
    assert {layer.outcome for layer in trace.report.layers} == {Outcome.EXCLUDED, Outcome.UNPRUNED}


def test_a_model_that_changes_its_input_in_place() -> None:
    class InPlace(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5).mul_(2.0))

    class OutOfPlace(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x - 0.5) * 2.0)

    models = []
    for cls in (InPlace, OutOfPlace):
        torch.manual_seed(0)
        models.append(cls())
    sample = SAMPLE.clone()
    trace = extract(models[0], sample=sample)
    assert torch.equal(sample, SAMPLE)
    assert_same_trace(trace, extract(models[1]))
