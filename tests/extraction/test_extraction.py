"""`extract_trace` from end to end, on small networks."""

# ruff: noqa: NPY002 - the global random states of NumPy are what is tested

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from references.layers import columns_by_position
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import (
    InputError,
    ModelOutputError,
    NothingToPruneError,
    ScheduleError,
    SolverError,
    SpadeError,
    UnknownNameError,
)
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.report import Outcome
from spadelens.extraction.trace import Trace
from spadelens.prediction import predict, scale_of
from spadelens.solvers import SOLVERS, LayerProblem, LayerSolution, Magnitude, Solver
from spadelens.views.photo_views import Augmentation, make_views, parse_augmentation

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


def mixed_net() -> Net:
    net = make_net().train()
    net.norm.eval()
    net.stem.weight.requires_grad_(False)
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    return net


class Breaks(Solver):
    """Fails at the second layer."""

    def solve(self, problem: LayerProblem) -> LayerSolution:
        if problem.name == "grouped":
            raise SolverError("broken on purpose")
        return Magnitude().solve(problem)


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


# What is in a trace


@pytest.mark.parametrize("name", sorted(SOLVERS))
@pytest.mark.parametrize("unit", ["weight", "kernel"])
def test_layers_are_solved_from_what_they_see(name: str, unit: str) -> None:
    net = make_net().double()
    sample = SAMPLE.double()
    solver = SOLVERS[name](unit=unit)
    trace = extract(net, sample=sample, solver=solver, schedule={"*": 0.5, "fc": 0.7}, batch_size=4)
    views = make_views(parse_augmentation("noise"), sample, 1, 0, 11)
    seen: dict[str, Tensor] = {}
    handles = [
        m.register_forward_pre_hook(lambda m, args, n=n: seen.update({n: columns_by_position(m, args[0].detach())}))
        for n, m in net.named_modules()
        if n in trace.weights
    ]
    net.eval()(views)
    for handle in handles:
        handle.remove()
    assert list(trace.weights) == ["depthwise", "grouped", "fc"]
    reports = {layer.name: layer for layer in trace.report.layers}
    for layer, inputs in seen.items():
        module, pruned = net.get_submodule(layer), trace.pruned[layer]
        groups = getattr(module, "groups", 1)
        dense, sparse = (
            w.detach().reshape(groups, -1, inputs.shape[-1]) for w in (module.weight, trace.weights[layer])
        )
        per_view = inputs.shape[1] // 11
        for part, error in ((inputs[:, : 9 * per_view], "error"), (inputs[:, 9 * per_view :], "held_out_error")):
            wrong, right = (float((part @ w.transpose(1, 2)).square().sum()) for w in (sparse - dense, dense))
            assert getattr(reports[layer], error) == pytest.approx(wrong / right, rel=1e-6, abs=1e-12)
        assert reports[layer].sparsity == pytest.approx(float(pruned.double().mean()))
        size = module.kernel_size[0] * module.kernel_size[1] if unit == "kernel" and layer != "fc" else 1
        wanted = 0.7 if layer == "fc" else 0.5
        assert int(pruned.sum()) == size * min(int(np.ceil(pruned.numel() // size * wanted - 1e-9)), pruned.numel())
        assert (trace.weights[layer][pruned] == 0).all()
    with torch.no_grad():
        for which, model in (("original_prediction", net), ("trace_prediction", trace.sparse_copy().eval())):
            assert getattr(trace.report, which) == predict(model(sample[None])[0], "logits")


def test_a_module_called_twice_adds_up() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(torch.relu(self.conv(self.stem(x))))
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    model = Twice().double()
    seen = []

    class Looks(Solver):
        def solve(self, problem: LayerProblem) -> LayerSolution:
            seen.append((problem.name, problem.statistics.num_positions, problem.statistics.hessian()))
            return Magnitude().solve(problem)

    extract(model, sample=SAMPLE.double(), augmentation="none", solver=Looks())
    stem = model.stem(SAMPLE.double()[None])
    both = torch.cat([columns_by_position(model.conv, x.detach()) for x in (stem, torch.relu(model.conv(stem)))], dim=1)
    assert [(name, count) for name, count, _ in seen] == [("conv", 2 * 35), ("fc", 1)]
    torch.testing.assert_close(seen[0][2][0], 2 / 70 * both[0].T @ both[0])


class Standardized(nn.Conv2d):
    """A convolution that standardizes its weight in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return functional.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, padding=1)


class Zoo(nn.Module):
    """One layer of every outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3, padding=1))
        self.standardized = Standardized(4, 4, 3)
        self.shared, self.partner = nn.Linear(4, 4), nn.Linear(4, 4)
        self.partner.weight = self.shared.weight
        self.dense, self.pruned = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.standardized(self.normed(self.stem(x))).mean((2, 3))
        return self.pruned(self.dense(self.partner(self.shared(x))))


def test_every_outcome_is_reported() -> None:
    torch.manual_seed(0)
    model = Zoo()
    before = state_of_everything(model)
    trace = extract(model, schedule={"pruned": 0.5})
    assert state_of_everything(model) == before
    found = {layer.name: (layer.outcome, layer.detail) for layer in trace.report.layers}
    assert found["pruned"] == (Outcome.PRUNED, "")
    assert found["dense"] == (Outcome.UNPRUNED, "the schedule does not prune it")
    assert found["stem"] == (Outcome.EXCLUDED, "first convolution")
    assert found["unused"] == (Outcome.NOT_CALLED, "its weight is not used on this sample")
    assert found["normed"] == (Outcome.UNSUPPORTED, "its weight is computed by a parametrization")
    assert found["standardized"] == (Outcome.UNSUPPORTED, "its output is not its weight times its input")
    assert found["shared"] == (Outcome.UNPRUNED, "the schedule does not prune it")
    assert found["partner"] == (Outcome.UNSUPPORTED, "its weight is that of 'shared'")
    assert [layer.name for layer in trace.report.pruned_layers] == ["pruned"] == list(trace.weights)
    unpruned = [layer for layer in trace.report.layers if layer.name != "pruned"]
    assert all(layer.sparsity == 0 and layer.error is None and layer.held_out_error is None for layer in unpruned)
    chosen = extract(model, layers=["dense", "stem"], schedule=0.5).report
    found = {layer.name: (layer.outcome, layer.detail) for layer in chosen.layers}
    assert found["dense"][0] is found["stem"][0] is Outcome.PRUNED
    assert found["pruned"] == (Outcome.EXCLUDED, "not one of the chosen layers")


def test_an_unsupported_first_convolution_is_still_the_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Standardized(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(140, 3))
    found = {layer.name: layer.outcome for layer in extract(model).report.layers}
    assert found == {"0": Outcome.UNSUPPORTED, "1": Outcome.PRUNED, "3": Outcome.PRUNED}


def test_a_module_under_two_names_is_no_shared_weight() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(140, 3))
    model.head = model[2]
    model.forward = lambda x: model.head(model[1](model[0](x)))
    assert [layer.name for layer in extract(model).report.pruned_layers] == ["2"]


def test_a_layer_that_the_views_never_reach_is_not_pruned_in_silence() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.fc, self.other = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return (self.fc if x.sum() > 0 else self.other)(self.stem(x))

    torch.manual_seed(0)
    try:
        trace = extract(Branches(), sample=torch.ones(4), views=-torch.ones(2, 4))
    except SolverError as error:
        assert "fc" in str(error)
    else:
        assert [layer.name for layer in trace.report.pruned_layers] == ["stem"]


def test_an_error_of_a_solver_names_the_layer() -> None:
    with pytest.raises(SolverError, match=r"^Cannot solve layer 'grouped'\. broken on purpose$"):
        extract(make_net(), solver=Breaks())


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_hessian_that_overflows_is_an_error(solver: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(SolverError, match="layer '0'"):
        extract(model, sample=torch.full((4,), 1e25), augmentation="none", solver=solver)


def test_autocast_of_the_user_does_not_reach_the_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    sample = torch.randn(64)
    expected = extract(model, sample=sample, solver="magnitude", augmentation="none").report.layers
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = extract(model, sample=sample, solver="magnitude", augmentation="none").report.layers
    assert got[0].error == pytest.approx(expected[0].error, rel=1e-6)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_errors_are_never_negative(solver: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    for seed in range(3):
        trace = extract(model, sample=torch.randn(64), seed=seed, solver=solver, schedule=0.3, augmentation="none")
        assert all(layer.error >= 0 for layer in trace.report.pruned_layers)


def test_a_lone_linear_layer() -> None:
    torch.manual_seed(0)
    trace = extract(nn.Linear(8, 3), sample=torch.ones(8))
    assert list(trace.weights) == [""]
    assert int(trace.pruned[""].sum()) == 12


def test_token_layers_and_the_order_of_calls() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(6, 3), nn.Linear(5, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x))).mean(1)

    torch.manual_seed(0)
    trace = extract(Tokens(), sample=torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    assert [layer.name for layer in trace.report.layers] == ["first", "last"]
    assert [int(pruned.sum()) for pruned in trace.pruned.values()] == [15, 9]


# The same trace, however it is computed


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


# What cannot be done


class Returns(nn.Module):
    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.change = make_net(), change

    def forward(self, x: Tensor) -> object:
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: (y,), "returned a tuple"),
        (lambda y: {"logits": y}, "returned a dict"),
        (lambda y: y * torch.nan, "not finite"),
        (lambda y: y[:, :, None], r"shape \[1, 5, 1\]"),
        (lambda y: y[:, :1], "at least two classes"),
        (lambda y: y[0], r"shape \[5\]"),
        (lambda y: y.argmax(1), "torch.int64"),
        (lambda y: y @ torch.zeros(2, 2), "cannot be run on a batch of shape .*RuntimeError"),
        (lambda y: {}["logits"], "KeyError"),
    ],
)
def test_models_without_class_scores(change: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ModelOutputError, match=message):
        extract(Returns(change))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sample": None}, InputError, "Cannot explain a NoneType"),
        ({"sample": SAMPLE.numpy()}, InputError, "Cannot explain a ndarray"),
        ({"sample": SAMPLE.int()}, InputError, "torch.int32"),
        ({"sample": SAMPLE * torch.nan}, InputError, "NaN or infinity"),
        ({"sample": SAMPLE[:, :0]}, InputError, r"shape \[3, 0, 7\]"),
        ({"sample": torch.tensor(1.0)}, InputError, r"shape \[\]"),
        ({"sample": SAMPLE[None, None]}, InputError, r"\[1, 1, 3, 9, 7\]"),
        ({"solver": "sparsgpt"}, UnknownNameError, "Did you mean 'sparsegpt'"),
        ({"solver": 5}, InputError, "solver"),
        ({"solver": Magnitude}, InputError, "solver"),
        ({"augmentation": "nose"}, UnknownNameError, "Did you mean 'noise'"),
        ({"augmentation": 5}, InputError, "5 as an augmentation"),
        ({"schedule": 1.0}, ScheduleError, "sparsity 1.0"),
        ({"positions_per_column": -1}, InputError, "positions_per_column=-1"),
        ({"precision": "float16"}, UnknownNameError, "precision 'float16'"),
        ({"preset": "balance"}, UnknownNameError, "Did you mean 'balanced'"),
        ({"target": 5}, InputError, "no class 5"),
        ({"target": True}, InputError, "no class True"),
        ({"schedule": {"nothing": 0.5}}, ScheduleError, "pattern 'nothing'"),
        ({"layers": ["nothing"]}, ScheduleError, "pattern 'nothing'"),
        ({"layers": "fc"}, InputError, "layers"),
        ({"layers": []}, NothingToPruneError, "no layer that may be pruned"),
        ({"num_views": 0}, InputError, "num_views=0"),
        ({"num_views": 2.5}, InputError, "num_views=2.5"),
        ({"seed": -1}, InputError, "seed=-1"),
        ({"batch_size": 0}, InputError, "batch_size=0"),
        ({"batch_size": True}, InputError, "batch_size=True"),
        ({"memory_budget_mib": 0}, InputError, "memory_budget_mib=0"),
        ({"views": []}, InputError, "`views` is empty"),
        ({"views": SAMPLE}, InputError, r"views of shape \[3, 9, 7\]"),
        ({"views": [SAMPLE[None] * torch.inf]}, InputError, "NaN or infinity"),
    ],
)
def test_arguments_that_cannot_be_used(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        extract(make_net(), **changes)


def test_models_that_are_none() -> None:
    with pytest.raises(InputError, match="Cannot explain a function"):
        extract_trace(lambda x: x, SAMPLE)
    with pytest.raises(NothingToPruneError, match="no layer that may be pruned"):
        extract(nn.Flatten())
    with pytest.raises(NothingToPruneError, match="first convolution is not pruned"):
        extract(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.25, 0.75], [0.25, 0.75]),  # probabilities already
        ([0.0, 0.0], [0.5, 0.5]),
        ([1.0, 3.0], [1 / (1 + np.e**2), np.e**2 / (1 + np.e**2)]),
        ([-1.0, 2.0], [1 / (1 + np.e**3), np.e**3 / (1 + np.e**3)]),  # the sum is one, but one is negative
    ],
)
def test_probabilities(scores: list[float], expected: list[float]) -> None:
    found = predict(torch.tensor(scores), scale_of(torch.tensor(scores)))
    assert found.probabilities == pytest.approx(expected)
    assert found.class_index == (1 if expected[1] > expected[0] else 0)
    assert found.probability == pytest.approx(max(expected))


def test_settings_are_reported() -> None:
    report = extract(make_net(), solver="obc:damping=0.1", schedule="late:0.5@0.5", layers=["fc", "grouped"]).report
    assert report.settings["solver"] == "obc:damping=0.1"
    assert report.settings["solver_settings"] == {"unit": "weight", "damping": 0.1}
    assert report.settings["schedule"] == "late:0.5@0.5"
    assert report.settings["layers"] == ["fc", "grouped"]
    assert (report.settings["num_views"], report.settings["num_held_out_views"], report.settings["seed"]) == (9, 2, 1)
    assert set(report.seconds) == {"probe", "views", "solve", "check"}
    assert torch.__version__.startswith(report.versions["torch"])


def test_half_precision_probabilities_are_recognized() -> None:
    torch.manual_seed(0)
    for classes in (10, 1000):
        for _ in range(50):
            assert scale_of(torch.randn(classes).mul(3).softmax(-1).bfloat16()) == "probabilities"
            assert scale_of(torch.randn(classes).bfloat16()) == "logits"


def test_a_train_method_of_the_users_own_is_not_called() -> None:
    class Merging(nn.Sequential):
        merged = False

        def train(self, mode: bool = True) -> "Merging":
            self.merged = not mode
            return super().train(mode)

    model = Merging(nn.Flatten(), nn.Linear(12, 3)).train()
    extract(model, sample=torch.ones(3, 2, 2))
    assert not model.merged and model.training and model[1].training


def test_a_layer_that_is_called_with_something_else_is_known_by_its_weight() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return super().forward(x) * scale

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = Scaled(6, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x=x, scale=torch.ones(())))

    layers = {layer.name: layer for layer in extract(Net(), sample=torch.ones(6)).report.layers}
    assert {layer.outcome for layer in layers.values()} == {Outcome.PRUNED}


def test_a_trace_made_in_inference_mode_can_be_differentiated() -> None:
    model = make_net()
    with torch.inference_mode():
        trace = extract(model)
    assert not any(weight.is_inference() for weight in trace.weights.values())


@pytest.mark.parametrize("flaw", ["nothing", "nan", "shape", "not zero"])
def test_a_solver_that_breaks_its_contract_is_named(flaw: str) -> None:
    class Broken(Solver):
        def solve(self, problem: LayerProblem) -> LayerSolution:
            weights, pruned = problem.weight[None].clone(), torch.zeros_like(problem.weight[None], dtype=torch.bool)
            if flaw == "nan":
                weights.fill_(float("nan"))
            elif flaw == "shape":
                weights = weights[0]
            elif flaw == "not zero":
                pruned[..., 0] = True
            return LayerSolution(weights, pruned)

    with pytest.raises(SolverError, match=r"The solver .* for layer 'depthwise'"):
        extract(make_net(), solver=Broken(), schedule=0.5)


def test_augmentations_that_make_too_few_views_are_refused() -> None:
    class One(Augmentation):
        def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
            return sample[None]

        def spec(self) -> str:
            return "one"

    with pytest.raises(InputError, match="expected views"):
        extract(make_net(), augmentation=One())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_views_in_half_precision_are_rounded_not_broken(dtype: torch.dtype) -> None:
    sample = torch.linspace(-1, 1, 3 * 64 * 64).view(3, 64, 64)
    precise = make_views(parse_augmentation("paper"), sample.to(dtype).float(), 0, 0, 6)
    rough = make_views(parse_augmentation("paper"), sample.to(dtype), 0, 0, 6)
    assert rough.dtype == dtype
    assert torch.equal(rough, precise.to(dtype))
