"""The rules of layer-wise relevance propagation against their equations, one output and one input at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from references import lrp as reference
from torch import Tensor, nn

from spadelens.graph.operations import fused
from spadelens.graph.tape import record
from spadelens.methods.lrp_rules import Composite, Rule, Strengths
from spadelens.methods.lrp_steps import Relevance

SETTINGS: list[tuple[Rule, dict[str, float]]] = [
    (Rule.EPSILON, {"epsilon": 0.0}),
    (Rule.EPSILON, {"epsilon": 0.1}),
    (Rule.EPSILON, {"epsilon": 50.0}),
    (Rule.GAMMA, {"epsilon": 0.0, "gamma": 0.25}),
    (Rule.GAMMA, {"epsilon": 0.2, "gamma": 3.0}),
    (Rule.GAMMA, {"epsilon": 0.1, "gamma": 0.0}),
    (Rule.ALPHA_BETA, {"alpha": 1.5}),
    (Rule.ALPHA_BETA, {"alpha": 2.0}),
    (Rule.ALPHA_BETA, {"alpha": 1.0}),
    (Rule.Z_PLUS, {}),
    (Rule.FLAT, {}),
]
every_rule = pytest.mark.parametrize(
    ("rule", "numbers"), SETTINGS, ids=[f"{rule.value}-{numbers}" for rule, numbers in SETTINGS]
)


def propagated(model: nn.Module, inputs: Tensor, relevance: Tensor, rule: Rule, **numbers: float) -> Tensor:
    """Return the relevance of the inputs of a whole model, from that of its outputs."""
    tape = fused(record(model.eval(), inputs))
    strengths = Strengths(**{"epsilon": 0.0, "gamma": 0.25, "alpha": 2.0, **numbers})
    return tape.backward(relevance, Relevance.over(tape, Composite(rule, rule), strengths, strengths.epsilon))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_random_weights(layer: Any, seed: int = 0) -> Any:
    """Return a layer in float64 with some weights at 0: all those of the last output, and a quarter of the others."""
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = noise(*parameter.shape, seed=seed + number)
    weight = layer.weight.data
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.25] = 0
    weight[-1] = 0
    return layer


def check(layer: Any, matrix: reference.Layer, inputs: Tensor, rule: Rule, numbers: dict[str, float]) -> None:
    """Compare with the restatement; all that comes back is what was handed in, but for outputs without inputs."""
    outputs = layer(inputs).detach()
    per_channel = [0.0] * outputs.shape[1] if layer.bias is None else layer.bias.tolist()
    bias = [b for b in per_channel for _ in range(outputs[0, 0].numel())]
    assert reference.outputs_of(matrix, bias, inputs.flatten().tolist()) == pytest.approx(outputs.flatten().tolist())
    relevance = noise(*outputs.shape, seed=9) * 100
    found = propagated(layer, inputs, relevance, rule, **numbers)
    wanted = reference.propagate(
        matrix, bias, inputs.flatten().tolist(), relevance.flatten().tolist(), rule.value, **numbers
    )
    np.testing.assert_allclose(found.flatten(), wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    given = sum(r for r, seen in zip(relevance.flatten().tolist(), matrix, strict=True) if seen)
    assert float(found.sum()) == pytest.approx(given, abs=1e-9 * float(found.abs().sum() + relevance.abs().sum()))


@every_rule
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("sign", ["mixed", "positive", "negative", "zero"])
def test_linear_layers(rule: Rule, numbers: dict[str, float], has_bias: bool, sign: str) -> None:
    layer = with_random_weights(nn.Linear(7, 5, has_bias))
    inputs = {"mixed": 1.0, "zero": 0.0}.get(sign, 1.0) * noise(1, 7, seed=3)
    if sign in ("positive", "negative"):  # outputs with contributions of one sign only
        layer.weight.data[0].abs_()
        layer.weight.data[1] = -layer.weight.data[1].abs()
        inputs = inputs.abs() if sign == "positive" else -inputs.abs()
    check(layer, reference.dense(layer.weight.data), inputs, rule, numbers)


CONVOLUTIONS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], dict[str, Any]]] = {
    "strided and padded": (nn.Conv2d, (2, 5, 6), {"out_channels": 3, "kernel_size": 3, "stride": 2, "padding": 1}),
    "oblong": (nn.Conv2d, (2, 4, 3), {"out_channels": 2, "kernel_size": (1, 2)}),
    "dilated": (nn.Conv2d, (1, 6, 5), {"out_channels": 2, "kernel_size": 2, "padding": 1, "dilation": 2}),
    "grouped": (nn.Conv2d, (4, 3, 3), {"out_channels": 6, "kernel_size": 2, "groups": 2}),
    "depthwise": (nn.Conv2d, (3, 4, 3), {"out_channels": 3, "kernel_size": 3, "padding": 1, "groups": 3}),
    "1x1": (nn.Conv2d, (4, 2, 3), {"out_channels": 3, "kernel_size": 1}),
    "1x1 with a rim of outputs that see nothing": (
        nn.Conv2d,
        (2, 2, 3),
        {"out_channels": 2, "kernel_size": 1, "padding": 1},
    ),
    "1-d": (nn.Conv1d, (2, 9), {"out_channels": 3, "kernel_size": 4, "stride": 2, "padding": 1}),
    "3-d": (nn.Conv3d, (1, 3, 2, 3), {"out_channels": 2, "kernel_size": 2, "padding": 1, "stride": 2}),
}


@every_rule
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str, rule: Rule, numbers: dict[str, float]) -> None:
    kind, shape, arguments = CONVOLUTIONS[name]
    layer = with_random_weights(kind(in_channels=shape[0], **arguments))
    geometry = {key: arguments[key] for key in ("stride", "padding", "dilation", "groups") if key in arguments}
    inputs = noise(1, *shape, seed=4)
    inputs[:, 0, :2] = 0  # a corner whose contributions are all 0
    check(layer, reference.convolution(layer.weight.data, shape[1:], **geometry), inputs, rule, numbers)


@every_rule
@pytest.mark.parametrize("arguments", [{"stride": 2, "padding": 1}, {"groups": 2}, {"stride": 4}])
def test_transposed_convolutions(arguments: dict[str, int], rule: Rule, numbers: dict[str, float]) -> None:
    layer = with_random_weights(nn.ConvTranspose2d(4, 2, (3, 2), **arguments))
    matrix = reference.transposed_convolution(layer.weight.data, (2, 3), **arguments)
    check(layer, matrix, noise(1, 4, 2, 3, seed=5), rule, numbers)


@every_rule
def test_a_padding_other_than_zeros(rule: Rule, numbers: dict[str, float]) -> None:
    """What a copy gets, the value that was copied gets."""
    layer = with_random_weights(nn.Conv1d(1, 2, 2, stride=2, padding=1, padding_mode="reflect"))
    sources = [1, 0, 1, 2, 3, 2]  # of the padded row
    matrix: reference.Layer = []
    for output in range(2):
        for place in range(3):
            first, second = sources[2 * place : 2 * place + 2]
            matrix.append(
                {first: float(layer.weight.data[output, 0, 0]), second: float(layer.weight.data[output, 0, 1])}
            )
    check(layer, matrix, noise(1, 1, 4, seed=6), rule, numbers)


class Product(nn.Module):
    """A matrix by the various names that torch has for its product with a vector or with several."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.weight, self.bias = nn.Parameter(noise(3, 4)), nn.Parameter(noise(3, seed=1))

    def forward(self, inputs: Tensor) -> Tensor:
        forms = {
            "linear": lambda: nn.functional.linear(inputs, self.weight, self.bias),
            "addmm": lambda: torch.addmm(self.bias, inputs, self.weight.T),
            "addmm, matrix first": lambda: torch.addmm(self.bias[:, None], self.weight, inputs.T).T,
            "mm": lambda: inputs @ self.weight.T,
            "mm, matrix first": lambda: (self.weight @ inputs.T).T,
            "mv": lambda: (self.weight @ inputs[0])[None],
            "bmm": lambda: torch.bmm(inputs[None], self.weight.T[None])[0],
            "baddbmm": lambda: torch.baddbmm(self.bias, inputs[None], self.weight.T[None])[0],
            "einsum": lambda: torch.einsum("bi,oi->bo", inputs, self.weight),
        }
        return forms[self.form]()


@pytest.mark.parametrize("form", ["addmm", "addmm, matrix first", "baddbmm"])
@pytest.mark.parametrize("rule", Rule)
def test_forms_of_a_linear_layer_with_bias(form: str, rule: Rule) -> None:
    inputs, relevance = noise(1, 4, seed=2), noise(1, 3, seed=3)
    wanted = propagated(Product("linear"), inputs, relevance, rule, epsilon=0.1)
    torch.testing.assert_close(propagated(Product(form), inputs, relevance, rule, epsilon=0.1), wanted)


@pytest.mark.parametrize("form", ["mm", "mm, matrix first", "mv", "bmm", "einsum"])
@pytest.mark.parametrize("rule", Rule)
def test_forms_of_a_product_without_bias(form: str, rule: Rule) -> None:
    inputs, relevance = noise(1, 4, seed=2), noise(1, 3, seed=3)
    product, plain = Product(form), Product("linear")
    for layer in (product, plain):
        nn.init.zeros_(layer.bias)
    wanted = propagated(plain, inputs, relevance, rule, epsilon=0.1)
    torch.testing.assert_close(propagated(product, inputs, relevance, rule, epsilon=0.1), wanted)


whole = st.integers(-3, 3)


@given(st.data(), st.sampled_from(SETTINGS))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whole_numbers(data: st.DataObject, setting: tuple[Rule, dict[str, float]]) -> None:
    """With small whole numbers, contributions and outputs of exactly zero turn up all the time."""
    rule, numbers = setting
    num_inputs, num_outputs = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    layer = nn.Linear(num_inputs, num_outputs).double()
    rows = st.lists(whole, min_size=num_inputs, max_size=num_inputs)
    weight = data.draw(st.lists(rows, min_size=num_outputs, max_size=num_outputs))
    layer.weight.data = torch.tensor(weight, dtype=torch.float64)
    layer.bias.data = torch.tensor(
        data.draw(st.lists(whole, min_size=num_outputs, max_size=num_outputs)), dtype=torch.float64
    )
    inputs = torch.tensor([data.draw(rows)], dtype=torch.float64)
    check(layer, reference.dense(layer.weight.data), inputs, rule, numbers)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, Tensor]:
    """Return a convolution of any shape whose outputs all see an input, and an input; both of small whole numbers."""
    groups, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    layer = nn.Conv2d(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        stride=draw(st.integers(1, 3)),
        padding=draw(st.integers(0, kernel - 1)),
        groups=groups,
        bias=draw(st.booleans()),
    ).double()
    random = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    for parameter in layer.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=random).double()
    inputs = torch.randint(-2, 3, (1, layer.in_channels, kernel + draw(st.integers(0, 3)), kernel), generator=random)
    return layer, inputs.double()


@given(convolutions(), st.sampled_from(SETTINGS))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_rule_hands_back_what_it_gets(
    case: tuple[nn.Conv2d, Tensor], setting: tuple[Rule, dict[str, float]]
) -> None:
    layer, inputs = case
    rule, numbers = setting
    relevance = noise(*layer(inputs).shape, seed=7) * 100
    found = propagated(layer, inputs, relevance, rule, **numbers)
    assert float(found.sum()) == pytest.approx(
        float(relevance.sum()), abs=1e-10 * float(found.abs().sum() + relevance.abs().sum())
    )


@every_rule
@pytest.mark.parametrize("size", [1e-42, 1e-36, 1e-20, 1.0])
def test_tiny_numbers_in_float32(size: float, rule: Rule, numbers: dict[str, float]) -> None:
    """Quotients by what is nearly nothing would not be finite."""
    layer = nn.Linear(3, 4, bias=False)
    layer.weight.data = torch.tensor([[1.0, -2, 1], [1, 1, 0], [0, 0, 0], [-1, 0, -1]]) * size
    relevance = torch.tensor([[20.0, -30, 40, 50]])
    found = propagated(layer, torch.tensor([[1.0, 1, 1]]), relevance, rule, **numbers)
    assert float(found.sum()) == pytest.approx(80, abs=1e-3)


def test_epsilon_far_above_all_else_shares_by_size() -> None:
    layer = nn.Linear(3, 1).double()
    layer.weight.data = torch.tensor([[1.0, -2, 5]], dtype=torch.float64)
    found = propagated(layer, torch.ones(1, 3).double(), torch.tensor([[8.0]]).double(), Rule.EPSILON, epsilon=1e9)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2, 5]]).double(), rtol=0, atol=1e-6)


@every_rule
def test_outputs_of_exactly_zero(rule: Rule, numbers: dict[str, float]) -> None:
    """They count as positive ones."""
    layer = nn.Linear(3, 3).double()
    layer.weight.data = torch.tensor([[2.0, -1, -1], [3, -1, 0], [-1, -1, 0]]).double()
    layer.bias.data = torch.tensor([0.0, -2, 2]).double()
    inputs = torch.ones(1, 3).double()
    assert not layer(inputs).any()
    check(layer, reference.dense(layer.weight.data), inputs, rule, numbers)


def test_rules_by_hand() -> None:
    """y = 1 * 2 + 2 * (-3) + 3 * 4 - 2 = 6, contributions 2, -6 and 12, relevance 60."""
    layer = nn.Linear(3, 1).double()
    layer.weight.data, layer.bias.data = torch.tensor([[2.0, -3, 4]]).double(), torch.tensor([-2.0]).double()
    inputs, relevance = torch.tensor([[1.0, 2, 3]]).double(), torch.tensor([[60.0]]).double()
    wanted = {
        # 10 for each unit of contribution; the bias has got -20, and gives it by 2 : 6 : 12
        (Rule.EPSILON, 0.0): [20 - 2, -60 - 6, 120 - 12],
        # the denominator is 6 + 0.2 * 20 = 10, 6 for each unit; the rest is 60 - 48 = 12
        (Rule.EPSILON, 0.2): [12 + 1.2, -36 + 3.6, 72 + 7.2],
        # 2.5, -6 and 15 of 11.5 - 2; the rest is 60 - 60 * 11.5 / 9.5
        (Rule.GAMMA, 0.0): [60 * (2.5 - 0.2) / 9.5, 60 * (-6 - 0.6) / 9.5, 60 * (15 - 1.2) / 9.5],
        (Rule.ALPHA_BETA, 0.0): [120 * 2 / 14, -60, 120 * 12 / 14],
        (Rule.Z_PLUS, 0.0): [60 * 2 / 14, 0, 60 * 12 / 14],
        (Rule.FLAT, 0.0): [20, 20, 20],
    }
    for (rule, epsilon), parts in wanted.items():
        found = propagated(layer, inputs, relevance, rule, epsilon=epsilon)
        assert found[0].tolist() == pytest.approx(parts), rule


@every_rule
def test_average_pooling(rule: Rule, numbers: dict[str, float]) -> None:
    """An average has the rule epsilon, whatever layers have."""
    inputs, relevance = noise(1, 2, 5, 4, seed=1), noise(1, 2, 2, 2, seed=2)
    found = propagated(nn.AvgPool2d(2), inputs, relevance, rule, **numbers)
    matrix = reference.average_pooling(2, (5, 4), 2, 2)
    wanted = reference.propagate(
        matrix,
        [0.0] * 8,
        inputs.flatten().tolist(),
        relevance.flatten().tolist(),
        epsilon=numbers.get("epsilon", 0.0),
    )
    np.testing.assert_allclose(found.flatten(), wanted, rtol=1e-9, atol=1e-9)


class Mean(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean((2, 3))


@pytest.mark.parametrize(
    "average",
    [
        Mean(),
        nn.AdaptiveAvgPool2d(2),
        nn.AvgPool2d(3, padding=1),
        nn.AvgPool2d(3, padding=1, count_include_pad=False),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2),
    ],
    ids=str,
)
def test_averages_lose_nothing(average: nn.Module) -> None:
    """Each gives 0 everywhere to inputs of 0, and every input gets something."""
    for inputs in (noise(1, 2, 5, 4, seed=1), torch.zeros(1, 2, 5, 4).double()):
        relevance = noise(*average(inputs).shape, seed=2).abs() * 9
        found = propagated(average, inputs, relevance, Rule.Z_PLUS, epsilon=0.05)
        assert float(found.sum()) == pytest.approx(float(relevance.sum()))
        assert bool((found != 0).all())


def test_a_product_with_a_factor_of_its_own() -> None:
    """torch.addmm can scale the product and the bias."""
    torch.manual_seed(3)
    bias, matrix, inputs = torch.randn(4).double(), torch.randn(3, 4).double(), torch.randn(2, 3).double()
    relevance = torch.randn(2, 4).double()

    class Scaled(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return torch.addmm(bias, values, matrix, beta=0.5, alpha=3.0)

    class Plain(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            return torch.addmm(0.5 * bias, values, 3.0 * matrix)

    for rule in (Rule.EPSILON, Rule.GAMMA):
        found, wanted = (propagated(model(), inputs, relevance, rule, epsilon=0.1) for model in (Scaled, Plain))
        torch.testing.assert_close(found, wanted)
