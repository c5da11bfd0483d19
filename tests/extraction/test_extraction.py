"""Extraction of a trace: what the layers are solved from, and what is reported of each."""

import numpy as np
import pytest
import torch
from references.extraction import SAMPLE, Breaks, extract, make_net, state_of_everything
from references.layers import columns_by_position
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import SolverError
from spadelens.extraction.report import Outcome
from spadelens.prediction import predict, scale_of
from spadelens.solvers import SOLVERS, LayerProblem, LayerSolution, Magnitude, Solver
from spadelens.views.photo_views import make_views, parse_augmentation


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
    outcome, detail = found["normed"]
    assert outcome is Outcome.UNSUPPORTED
    assert detail.startswith("its weight is computed by a parametrization; remove it first")
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_views_in_half_precision_are_rounded_not_broken(dtype: torch.dtype) -> None:
    sample = torch.linspace(-1, 1, 3 * 64 * 64).view(3, 64, 64)
    precise = make_views(parse_augmentation("paper"), sample.to(dtype).float(), 0, 0, 6)
    rough = make_views(parse_augmentation("paper"), sample.to(dtype), 0, 0, 6)
    assert rough.dtype == dtype
    assert torch.equal(rough, precise.to(dtype))
