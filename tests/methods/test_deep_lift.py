"""DeepLIFT: complete on every network, the gradient near the baseline, and equal to captum where captum is right."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from references import dense
from references.deep_lift import HandMadeNorm, change_of, complete, ends_of
from references.networks import PHOTO, TARGET, Function, sample_of
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import AttributionError, InputError
from spadelens.methods.deep_lift import DeepLift

TOKENS, ROW = (1, 5, 6), (1, 11)


class Mixed(nn.Module):
    """Convolutions, then what is between them, then pooling."""

    def __init__(self, *between: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, channels, 3, padding=1), nn.Conv2d(channels, 5, 3, stride=2)
        self.between, self.head = nn.Sequential(*between), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.between(self.first(inputs))
        return self.head(functional.relu(self.second(hidden)).mean((2, 3)))


class Squeezed(nn.Module):
    """Squeeze and excitation, with a gate that is a module or written by hand."""

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), gate

    def forward(self, inputs: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(inputs, 1)
        return inputs * self.gate(self.up(functional.silu(self.down(pooled)))) + inputs


def noisy(norm: nn.Module) -> nn.Module:
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 2)
    return norm


BETWEEN: dict[str, Callable[[], nn.Module]] = {
    **{
        name: getattr(nn, name)
        for name in ("ReLU", "GELU", "SiLU", "Hardswish", "Mish", "ELU", "PReLU", "Softplus", "Tanh", "Sigmoid")
    },
    **{name: getattr(nn, name) for name in ("Hardtanh", "Softsign", "Softshrink", "RReLU", "LogSigmoid", "Tanhshrink")},
    "overlapping maxima": lambda: nn.MaxPool2d(3, stride=1, padding=1),
    "maxima of adaptive windows": lambda: nn.AdaptiveMaxPool2d((4, 5)),
    "means of adaptive windows": lambda: nn.AdaptiveAvgPool2d((4, 5)),
    "means of windows": lambda: nn.AvgPool2d(3, 2, padding=1),
    "maximum of channels": lambda: Function(lambda x: x * 0.5 + x.max(1, keepdim=True).values - x.amax((2, 3), True)),
    "largest of all": lambda: Function(lambda x: x * 0.1 + x.max()),
    "gate": lambda: Squeezed(torch.sigmoid),
    "hard gate": lambda: Squeezed(lambda x: functional.relu6(x + 3) / 6),
    "softmax": lambda: nn.Softmax(1),
    "logarithms of shares": lambda: nn.LogSoftmax(1),
    "batch norm": lambda: noisy(nn.BatchNorm2d(4)),
    "group norm": lambda: noisy(nn.GroupNorm(2, 4)),
    "layer norm": lambda: noisy(nn.LayerNorm((7, 9))),
    "normalized": lambda: Function(lambda x: functional.normalize(x, dim=1)),
    "response norm": lambda: nn.LocalResponseNorm(3),
    "divided": lambda: Function(lambda x: x / (2 + x.abs().mean(1, keepdim=True))),
    "divided by either sign": lambda: Function(lambda x: x.roll(1, 1) / (x.sum(1, keepdim=True) + 0.01)),
    "global response norm": lambda: Function(
        lambda x: x + x * (g := x.norm(dim=(2, 3), keepdim=True)) / g.mean(1, True)
    ),
    "enlarged": lambda: nn.Upsample(scale_factor=1.5, mode="bilinear"),
    "joined": lambda: Function(lambda x: torch.cat([x[:, 2:], x[:, :2].flip(3)], 1) - x * x.sin()),
    "transposed": lambda: nn.ConvTranspose2d(4, 4, 2),
}


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("baseline", [0.0, -0.3])
def test_complete_on(name: str, baseline: float) -> None:
    torch.manual_seed(1)
    complete(Mixed(BETWEEN[name]()), sample_of(PHOTO), baseline)


class Text(nn.Module):
    """Two layers of attention, causal or not."""

    def __init__(self, norm: Callable[[], nn.Module], is_causal: bool) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(6, 18) for _ in range(2))
        self.norms, self.is_causal = nn.ModuleList(norm() for _ in range(2)), is_causal
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        for norm, qkv in zip(self.norms, self.qkv, strict=True):
            query, key, value = (
                part.unflatten(2, (2, 3)).transpose(1, 2) for part in qkv(norm(tokens)).mul(3).chunk(3, 2)
            )
            mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.is_causal)
            tokens = tokens + mixed.transpose(1, 2).flatten(2)
        return functional.log_softmax(self.head(tokens[:, -1]), -1)


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(6), lambda: nn.RMSNorm(6), HandMadeNorm, nn.Identity])
def test_complete_on_texts(norm: Callable[[], nn.Module], is_causal: bool) -> None:
    torch.manual_seed(2)
    complete(Text(norm, is_causal), sample_of(TOKENS))


def test_complete_on_encoders_and_rows() -> None:
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(6, 2, 7, batch_first=True, norm_first=is_first) for is_first in (True, False)]
    complete(nn.Sequential(*layers, nn.Flatten(), nn.Linear(30, 3)), sample_of(TOKENS))
    complete(
        nn.Sequential(nn.Linear(11, 9), nn.SELU(), nn.LayerNorm(9), nn.Linear(9, 3), nn.Softmax(1)), sample_of(ROW)
    )


def layers_of(functions: list[tuple[nn.Module, Callable[[float], float]]]) -> tuple[nn.Sequential, list[dense.Layer]]:
    torch.manual_seed(5)
    linears = [nn.Linear(a, b).double() for a, b in zip((5, 7, 6)[: len(functions) + 1], (7, 6, 3), strict=False)]
    linears = [*linears[: len(functions)], nn.Linear(linears[len(functions) - 1].out_features, 3).double()]
    modules: list[nn.Module] = []
    restated = []
    for number, linear in enumerate(linears):
        modules.append(linear)
        layer = dense.Layer(linear.weight.tolist(), linear.bias.tolist())
        if number < len(functions):
            modules.append(functions[number][0])
            layer.function = functions[number][1]
        restated.append(layer)
    return nn.Sequential(*modules), restated


@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_rescale_rule_restated(baseline: float) -> None:
    for functions in (
        [(nn.ReLU(), dense.relu), (nn.ReLU(inplace=True), dense.relu)],
        [(nn.GELU(), dense.gelu), (nn.SiLU(), dense.silu)],
        [(nn.Hardswish(), dense.hardswish), (nn.Tanh(), math.tanh)],
    ):
        model, layers = layers_of(functions)
        sample = 2 * sample_of((1, 5), 3)
        expected = dense.rescale(layers, sample[0].tolist(), [baseline] * 5, TARGET)
        found = complete(model, sample, baseline)
        assert found.values[0].tolist() == pytest.approx(expected, rel=1e-9)


def test_it_is_not_input_times_gradient() -> None:
    """Where a ReLU with a bias closes between the baseline and the sample, the gradient sees nothing."""
    values = ends_of(lambda x: functional.relu(1 - x[0]) + functional.relu(x[1] - 1), [2.0, 3.0])
    assert values == pytest.approx([-1.0, 2.0])
    model, _ = layers_of([(nn.ReLU(), dense.relu), (nn.ReLU(), dense.relu)])
    sample = sample_of((1, 5), 3).requires_grad_()
    (gradient,) = torch.autograd.grad(model(sample)[0, TARGET], sample)
    sample = sample.detach()
    found = complete(model, sample).values
    assert float((found - gradient * sample).abs().max()) > 0.05 * float(found.abs().max())


def test_without_biases_a_relu_net_gives_input_times_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(11, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    sample = sample_of(ROW).requires_grad_()
    (gradient,) = torch.autograd.grad(model(sample)[0, TARGET], sample)
    assert torch.allclose(complete(model, sample.detach()).values, gradient * sample, atol=1e-12)


def captum(model: nn.Module, sample: Tensor, baseline: float) -> Tensor:
    from captum.attr import DeepLift as CaptumDeepLift

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        found: Tensor = CaptumDeepLift(model).attribute(sample, torch.full_like(sample, baseline), target=TARGET)
    return found.detach()


def test_equal_to_captum_where_captum_is_right() -> None:
    """On modules that are used once, and on maxima that rise."""
    torch.manual_seed(3)
    first, sample = [nn.Conv2d(2, 4, 3), nn.ReLU()], sample_of(PHOTO)
    nn.init.constant_(first[0].bias, -0.1)  # all is 0 at the baseline
    second = [nn.Conv2d(4, 5, 2), nn.Softplus()]
    for body, size in (
        ([*first, nn.MaxPool2d(2)], 24),
        ([*first, *second], 120),
        ([*first, *second, nn.AvgPool2d(2)], 30),
    ):
        model = nn.Sequential(*body, nn.Flatten(), nn.Linear(size, 3)).double().eval()
        assert torch.allclose(complete(model, sample).values, captum(model, sample, 0.0), atol=1e-12)
    # a part of what falls is lost there
    shift = sample_of(PHOTO, 9)
    pattern = Function(lambda x: x + shift)
    model = nn.Sequential(
        pattern, nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    ).double()
    complete(model, sample)
    assert abs(float(captum(model, sample, 0.0).sum()) - change_of(model, sample)) > 1e-3


def test_captum_loses_what_is_called_as_a_function() -> None:
    """The reason for rules of our own: the same network gives another map, and nobody is told."""
    model, _ = layers_of([(nn.ReLU(), dense.relu)])
    as_function = Function(lambda x: model[2](functional.relu(model[0](x))))
    as_function.model = model
    sample = sample_of((1, 5), 3)
    lost = captum(as_function, sample, 0.0)
    assert torch.allclose(complete(as_function, sample).values, complete(model, sample).values, atol=1e-12)
    assert abs(float(lost.sum()) - change_of(model, sample)) > 0.01


@pytest.mark.parametrize(
    "name", ["GELU", "Softplus", "Sigmoid", "group norm", "softmax", "normalized", "overlapping maxima"]
)
def test_a_sample_that_equals_its_baseline_gives_zero(name: str) -> None:
    torch.manual_seed(1)
    model = Mixed(BETWEEN[name]()).double().eval()
    found = DeepLift(0.25).attribute(model, torch.full(PHOTO, 0.25, dtype=torch.float64), TARGET)
    assert torch.equal(found.values, torch.zeros(PHOTO, dtype=torch.float64))
    assert found.convergence_delta == 0.0
    # also where nothing reaches the roots
    flat = Function(lambda x: x.square().sum((2, 3)).sqrt() + x.norm(dim=(2, 3)))
    zero = DeepLift().attribute(flat, torch.zeros(PHOTO, dtype=torch.float64), TARGET)
    assert torch.equal(zero.values, torch.zeros(PHOTO, dtype=torch.float64))


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9, 1e-12, 1e-300])
@pytest.mark.parametrize(
    "name", ["GELU", "Softplus", "Sigmoid", "Mish", "group norm", "softmax", "logarithms of shares"]
)
def test_nearly_at_the_baseline_the_multipliers_are_the_gradient(name: str, distance: float) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), BETWEEN[name](), nn.Flatten(), nn.Linear(140, 3)).double().eval()
    leaf = torch.zeros(PHOTO, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(leaf)[0, TARGET], leaf)
    sample = distance * sample_of(PHOTO)
    found = DeepLift().attribute(model, sample, TARGET).values
    scale = float(gradient.abs().max())
    assert torch.allclose(found / distance, gradient * (sample / distance), atol=scale * max(20 * distance, 1e-6))


def test_few_values_differ_from_the_baseline() -> None:
    """In float32, where quotients of small differences would be rounding alone."""
    torch.manual_seed(1)
    model = Mixed(nn.Softplus()).eval()
    sample = torch.zeros(PHOTO)
    sample[0, 0, 3, 4] = 1e-5
    leaf = torch.zeros(PHOTO, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(leaf)[0, TARGET], leaf)
    found = DeepLift().attribute(model, sample, TARGET).values
    assert int((found != 0).sum()) == 1
    assert torch.allclose(found * 1e5, gradient * (sample * 1e5), rtol=0.01)


def test_near_the_baseline_in_float32_by_hand() -> None:
    def of(function: Callable[[Tensor], Tensor], value: float, baseline: float) -> tuple[float, float]:
        model, sample = Function(lambda x: function(x).expand(1, 2)), torch.tensor([[value]])
        return float(DeepLift(baseline).attribute(model, sample, TARGET).values), float(sample.double() - baseline)

    # near 0, where the function is not near 0
    found, distance = of(functional.softplus, 1e-6, 0.0)
    assert found == pytest.approx(0.5 * distance, rel=1e-5)
    # where the distance is large, and small next to the values
    found, distance = of(torch.square, 1e5 + 0.01, 1e5)
    assert found == pytest.approx(2e5 * distance, rel=1e-5)
    # the slope is that between both
    found, distance = of(lambda x: x**3, 1.0003, 1.0)
    assert found == pytest.approx((1 + distance) ** 3 - 1, rel=2e-6)


def test_the_delta_is_what_is_missed() -> None:
    """In float32, which misses a little."""
    torch.manual_seed(0)
    model, sample = nn.Sequential(nn.Linear(999, 500), nn.GELU(), nn.Linear(500, 3)), torch.randn(1, 999)
    found = DeepLift().attribute(model, sample, TARGET)
    with torch.no_grad():
        scores = [float(model(one)[0, TARGET]) for one in (sample, torch.zeros_like(sample))]
    missed = float(found.values.double().sum()) - (scores[0] - scores[1])
    assert missed != 0
    assert found.convergence_delta == pytest.approx(missed, abs=1e-6)


def test_formulas_are_rescaled_as_activations() -> None:
    torch.manual_seed(1)
    model, formula = Mixed(nn.SiLU()), Mixed(Function(lambda x: x * torch.sigmoid(x)))
    formula.load_state_dict(model.state_dict())
    values = [complete(one, sample_of(PHOTO)).values for one in (model, formula)]
    assert torch.allclose(*values, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_complete_as_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = Mixed(nn.GELU(), nn.GroupNorm(2, 4)).to(dtype).eval()
    sample = sample_of(PHOTO).to(dtype)
    found = DeepLift(0.5).attribute(model, sample, TARGET)
    wide = DeepLift(0.5).attribute(model.float(), sample.float(), TARGET)
    assert found.values.dtype == torch.float32
    assert torch.allclose(found.values, wide.values, rtol=1e-3, atol=1e-5)
    assert found.convergence_delta == pytest.approx(0.0, abs=1e-5)


def test_a_mask_of_the_input_is_refused() -> None:
    """It would lose the difference that comes with the mask, which no gradient sees."""
    for function in (lambda x: x * (x > 0).double(), lambda x: x * (x > 0), lambda x: torch.where(x > 0, x, -x)):
        with pytest.raises(AttributionError, match="'deep_lift' has no rule for the operation 'gt'"):
            DeepLift().attribute(Function(function), sample_of(ROW), TARGET)


def test_settings_out_of_range_are_refused() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(InputError, match="expected a finite number"):
            DeepLift(value)
