"""`attribute`: targets, reductions, refusals, and that nothing of the user's is changed."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from references.networks import Normalized, seeded
from torch import Tensor, nn
from torch.nn.functional import softplus

from spadelens import Trace, attribute, extract_trace
from spadelens.errors import (
    AttributionError,
    InputError,
    ModelOutputError,
    SpadeError,
    TraceMismatchError,
    UnknownNameError,
)
from spadelens.kinds import REDUCTIONS, Reduction
from spadelens.methods.registry import METHODS, Attribution, IntegratedGradients, Method, Saliency


def small(seed: int = 0, channels: int = 3) -> nn.Module:
    def made() -> nn.Module:
        model = Normalized(channels)
        model.norm.running_mean.normal_()  # type: ignore[union-attr,operator]
        return model

    return seeded(made, seed)


@pytest.fixture
def model() -> nn.Module:
    return small()


def make_sample(channels: int = 3, height: int = 8, width: int = 12, seed: int = 3) -> Tensor:
    return torch.randn(channels, height, width, generator=torch.Generator().manual_seed(seed))


SAMPLE = make_sample()
OF_PHOTOS = ("score_cam", "grad_cam", "guided_grad_cam")
OF_ANY_MODEL = [method for method in METHODS if method not in OF_PHOTOS]  # those ask for a module that gives maps


def gradient(model: nn.Module, target: int) -> Tensor:
    point = SAMPLE.clone()[None].requires_grad_()
    return torch.autograd.grad(model(point)[0, target], point)[0][0]


def state_of(model: nn.Module) -> object:
    """Everything that an attribution could leave behind."""
    return (
        {name: (tensor.numpy().tobytes(), tensor.data_ptr()) for name, tensor in model.state_dict().items()},
        [(name, id(parameter), parameter.requires_grad) for name, parameter in model.named_parameters()],
        [parameter.grad is None for parameter in model.parameters()],
        [module.training for module in model.modules()],
        [
            [len(getattr(module, hooks)) for hooks in vars(module) if hooks.endswith("_hooks")]
            for module in model.modules()
        ],
        torch.is_grad_enabled(),
        torch.get_rng_state().numpy().tobytes(),
        str(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture(scope="module")
def flipping() -> Trace:
    """A trace that predicts another class than its dense model."""
    for seed in range(200):
        trace = extract_trace(
            small(seed), SAMPLE, augmentation="none", num_views=1, solver="magnitude", schedule=0.8, layers=["*"]
        )
        if not trace.report.is_prediction_kept:
            return trace
    raise AssertionError("no prediction flips")


def test_heatmap_is_the_sum_of_absolute_values(model: nn.Module) -> None:
    found = attribute(model, SAMPLE, "saliency")
    with torch.no_grad():
        target = int(model(SAMPLE[None]).argmax())
    expected = gradient(model, target)
    assert found.target == target
    assert torch.allclose(found.attribution, expected)
    assert bool((found.attribution < 0).any())
    assert torch.equal(found.values, found.attribution.abs().sum(0))
    assert found.values.shape == (8, 12)
    assert (found.method, found.reduction, found.convergence_delta) == ("saliency", "sum_abs", None)
    assert not found.is_zero
    assert not found.values.requires_grad
    assert not found.attribution.requires_grad


@pytest.mark.parametrize("target", range(5))
def test_target(model: nn.Module, target: int) -> None:
    found = attribute(model, SAMPLE, "saliency", target=target)
    assert found.target == target
    assert torch.allclose(found.attribution, gradient(model, target))


def test_reductions(model: nn.Module) -> None:
    for name, by_hand in {
        "sum_abs": lambda a: a.abs().sum(0),
        "max_abs": lambda a: a.abs().amax(0),
        "sum": lambda a: a.sum(0),
    }.items():
        found = attribute(model, SAMPLE, reduction=name)  # type: ignore[arg-type]
        assert torch.equal(found.values, by_hand(found.attribution))
        assert found.reduction == name
    assert set(REDUCTIONS) == {"sum_abs", "max_abs", "sum"}


def test_settings_are_kept(model: nn.Module) -> None:
    found = attribute(model, SAMPLE, "integrated_gradients:num_steps=7")
    assert found.method == "integrated_gradients:num_steps=7"
    assert found.settings == {"num_steps": 7, "baseline": 0.0, "batch_size": 8}
    assert found.convergence_delta is not None
    same = attribute(model, SAMPLE, IntegratedGradients(num_steps=7))
    assert torch.equal(found.values, same.values)
    assert same.method == found.method


def test_the_default_target_of_a_trace_is_the_dense_prediction(flipping: Trace) -> None:
    assert flipping.report.original_prediction.class_index != flipping.report.trace_prediction.class_index
    found = attribute(flipping, SAMPLE, "saliency")
    assert found.target == flipping.report.original_prediction.class_index
    assert attribute(flipping.original_model, SAMPLE).target == found.target
    assert torch.allclose(found.attribution, gradient(flipping.sparse_copy(), found.target), atol=1e-7)
    assert not torch.allclose(found.attribution, gradient(flipping.original_model, found.target))


@pytest.mark.parametrize("method", METHODS)
def test_a_trace_is_its_sparse_copy(flipping: Trace, method: str) -> None:
    on_trace = attribute(flipping, SAMPLE, method, target=1)
    on_copy = attribute(flipping.sparse_copy(), SAMPLE, method, target=1)
    assert torch.equal(on_trace.attribution, on_copy.attribution)
    assert on_trace.convergence_delta == on_copy.convergence_delta


@dataclass(frozen=True)
class Failing(Method):
    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        raise ZeroDivisionError(f"training: {model.training}, gradients: {torch.is_grad_enabled()}")


@pytest.mark.parametrize("method", [*METHODS, "failing"])
@pytest.mark.parametrize("on_trace", [False, True])
def test_nothing_is_changed(method: str, on_trace: bool) -> None:
    model = small().train()
    model.norm.eval()  # type: ignore[union-attr,operator]
    model.first.weight.requires_grad_(False)  # type: ignore[union-attr]
    model.linear.bias.grad = torch.ones(5)  # type: ignore[union-attr]
    sample = SAMPLE.clone()
    target: Trace | nn.Module = model
    if on_trace:
        target = extract_trace(model, sample, augmentation="none", num_views=1, schedule=0.5)
    before = state_of(model)
    if method == "failing":
        with pytest.raises(AttributionError, match="training: False, gradients: True"):
            attribute(target, sample, Failing())
    else:
        attribute(target, sample, method)
        with pytest.raises(InputError):
            attribute(target, sample, method, target=99)
    assert state_of(model) == before
    assert torch.equal(model.linear.bias.grad, torch.ones(5))  # type: ignore[union-attr,arg-type]
    assert torch.equal(sample, SAMPLE)
    assert sample.grad is None
    assert not sample.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_train_mode_and_frozen_parameters_do_not_matter(method: str) -> None:
    expected = attribute(small(), SAMPLE, method)
    model = small().train().requires_grad_(False)
    assert torch.equal(attribute(model, SAMPLE, method).values, expected.values)
    assert model.training


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, lambda: torch.set_grad_enabled(False)])
def test_gradient_mode_of_the_caller_does_not_matter(model: nn.Module, context: Callable[[], object]) -> None:
    expected = attribute(model, SAMPLE).values
    with context():  # type: ignore[attr-defined]
        before = torch.is_grad_enabled()
        assert torch.equal(attribute(model, SAMPLE).values, expected)
        assert torch.is_grad_enabled() == before


def test_inference_mode_of_the_caller(model: nn.Module) -> None:
    expected = attribute(model, SAMPLE).values
    with torch.inference_mode():
        assert torch.equal(attribute(model, SAMPLE.clone()).values, expected)
        assert torch.is_inference_mode_enabled()


def test_samples_that_require_gradients(model: nn.Module) -> None:
    sample = SAMPLE.clone().requires_grad_()
    assert torch.equal(attribute(model, sample).values, attribute(model, SAMPLE).values)
    assert sample.grad is None


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 5, 17), (2, 1, 9), (4, 6, 6)])
def test_shapes(method: str, channels: int, height: int, width: int) -> None:
    found = attribute(small(0, channels), make_sample(channels, height, width), method)
    assert found.values.shape == (height, width)
    assert found.attribution.shape == (channels, height, width)


def test_float64_models() -> None:
    found = attribute(small().double(), SAMPLE)
    assert found.values.dtype == torch.float64


@pytest.mark.parametrize("target", [-1, 5, 99, True, 1.0, "1", torch.tensor(7), torch.tensor([1, 2])])
def test_bad_targets(model: nn.Module, target: object) -> None:
    with pytest.raises(InputError, match=r"There is no class .*from 0 to 4"):
        attribute(model, SAMPLE, target=target)  # type: ignore[arg-type]


def test_unknown_names(model: nn.Module) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown method 'salency'\. Did you mean 'saliency'\?"):
        attribute(model, SAMPLE, "salency")
    with pytest.raises(UnknownNameError, match=r"Unknown reduction 'sumabs'\. Did you mean 'sum_abs'"):
        attribute(model, SAMPLE, reduction="sumabs")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sample",
    [
        None,
        SAMPLE.numpy(),
        torch.zeros(0, 3, 3),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        SAMPLE.clone().fill_(float("nan")),
        torch.tensor(1.0),
    ],
)
def test_bad_samples(model: nn.Module, sample: object) -> None:
    with pytest.raises(InputError, match="Cannot explain"):
        attribute(model, sample)  # type: ignore[arg-type]


def test_samples_that_do_not_fit_the_model(model: nn.Module) -> None:
    with pytest.raises(ModelOutputError, match=r"\[1, 1, 8, 8\]"):
        attribute(model, torch.zeros(1, 8, 8))
    with pytest.raises(SpadeError):
        attribute(model, torch.stack([SAMPLE, SAMPLE]))
    with pytest.raises(InputError, match=r"expected a torch\.nn\.Module"):
        attribute(lambda inputs: inputs, SAMPLE)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(6,), (3, 2)])
@pytest.mark.parametrize("method", METHODS)
def test_texts_and_rows(method: str, shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model.input_kind = "row" if len(shape) == 1 else "text"
    sample = torch.arange(1.0, 7.0).view(shape)
    if method in OF_PHOTOS:
        with pytest.raises(AttributionError, match="photo"):
            attribute(model, sample, method)
        return
    found = attribute(model, sample, method)
    assert found.attribution.shape == shape
    assert found.values.shape == shape[:1]
    assert not found.is_zero
    expected = found.attribution.abs()
    torch.testing.assert_close(found.values, expected if len(shape) == 1 else expected.sum(1))
    with pytest.raises(InputError, match="blur"):
        attribute(model, sample, method, blur=0.1)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", [1.0, -2.0, 0.5]), ("sum_abs", [1.0, 2.0, 0.5]), ("max_abs", [1.0, 2.0, 0.5])],
)
def test_a_row_keeps_its_signs_where_they_are_asked_for(reduction: Reduction, expected: list[float]) -> None:
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
    assert attribute(model, torch.ones(3), "saliency", target=0, reduction=reduction).values.tolist() == expected


def test_method_that_is_none(model: nn.Module) -> None:
    with pytest.raises((InputError, AttributionError)):
        attribute(model, SAMPLE, None)  # type: ignore[arg-type]


def test_changed_models_are_refused(model: nn.Module) -> None:
    trace = extract_trace(model, SAMPLE, augmentation="none", num_views=1, schedule=0.5)
    with torch.no_grad():
        model.linear.bias.add_(1)  # type: ignore[union-attr,operator]
    with pytest.raises(TraceMismatchError):
        attribute(trace, SAMPLE)


class Wrapped(nn.Module):
    def __init__(self, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(self, inputs: Tensor) -> Tensor:
        return self.score(inputs)


@pytest.mark.parametrize("method", ["saliency", "input_x_gradient", "integrated_gradients", "gradient_shap"])
def test_gradients_that_are_not_finite(method: str) -> None:
    model = Wrapped(lambda x: (x * 0).abs().sqrt().flatten(1)[:, :3])  # the score is 0, its slope 0 times infinity
    with pytest.raises(AttributionError, match=rf"'{method}' gives values that are not finite"):
        attribute(model, SAMPLE, method)


def test_a_map_of_zeros() -> None:
    model = Wrapped(lambda x: torch.relu(-x.abs() - 1).flatten(1)[:, :3])
    for method in OF_ANY_MODEL:
        found = attribute(model, SAMPLE, method)
        assert found.is_zero, method
        assert not found.values.any()
    assert not attribute(small(), SAMPLE).is_zero


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "gradient_shap"])
@pytest.mark.parametrize(
    "score",
    [
        torch.no_grad()(lambda x: x.flatten(1)[:, :3]),
        lambda x: x.detach().flatten(1)[:, :3],
        lambda x: (x.flatten(1)[:, :3] > 0).float(),
    ],
)
def test_models_without_gradients(method: str, score: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AttributionError):
        attribute(Wrapped(score), SAMPLE, method)
    assert attribute(Wrapped(score), SAMPLE, "occlusion").values.shape == (8, 12)


def test_a_baseline_on_which_the_model_fails() -> None:
    model = Wrapped(lambda x: (x / x.square().sum((1, 2, 3), keepdim=True).sqrt()).flatten(1)[:, :3])
    with pytest.raises(AttributionError):
        attribute(model, SAMPLE, "integrated_gradients")


@pytest.mark.parametrize("method", OF_ANY_MODEL)
def test_models_that_work_in_place_on_their_input(method: str) -> None:
    sample = SAMPLE.clone()
    found = attribute(Wrapped(lambda x: softplus(x.mul_(2)).flatten(1)[:, :3]), sample, method, target=1)
    assert torch.equal(sample, SAMPLE)
    expected = attribute(Wrapped(lambda x: softplus(x * 2).flatten(1)[:, :3]), SAMPLE, method, target=1)
    assert torch.allclose(found.attribution, expected.attribution)


@pytest.fixture
def outputs() -> Iterator[dict[str, object]]:
    yield {
        "tuple": (torch.zeros(1, 3), None),
        "a class": torch.zeros(1, 1),
        "a map": torch.zeros(1, 3, 4, 4),
        "numbers": torch.zeros(1, 3, dtype=torch.int64),
        "nan": torch.full((1, 3), float("nan")),
        "nothing": None,
    }


def test_models_that_give_no_scores(outputs: dict[str, object]) -> None:
    for output in outputs.values():
        with pytest.raises(ModelOutputError):
            attribute(Wrapped(lambda _, output=output: output), SAMPLE)  # type: ignore[misc]


def test_methods_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Saliency().anything = 3  # type: ignore[attr-defined]
