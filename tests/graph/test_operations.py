"""What operations are, on tapes of small models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from references.networks import Function, sample_of
from torch import Tensor, nn
from torch.nn import functional

from spadelens.errors import AttributionError
from spadelens.graph.operations import POINTWISE, OpKind, Role, fused, kind_of, normalization_of, role_of
from spadelens.graph.tape import Step, Tape, record, vjp

SHAPE = (1, 4, 3, 6)


def tape_of(model: nn.Module | Callable[[Tensor], Any], shape: tuple[int, ...] = SHAPE) -> Tape:
    model = model if isinstance(model, nn.Module) else Function(model)
    return record(model.double().eval(), sample_of(shape))


def names_of(tape: Tape) -> list[str]:
    """Return the operations that are more than a rearrangement."""
    return [step.name for step in tape.steps if kind_of(step, "x") is not OpKind.VIEW]


def only(tape: Tape) -> Step:
    (step,) = [step for step in tape.steps if kind_of(step, "x") is not OpKind.VIEW]
    return step


def refused(model: nn.Module | Callable[[Tensor], Any], message: str, shape: tuple[int, ...] = SHAPE) -> None:
    tape = fused(tape_of(model, shape))
    with pytest.raises(AttributionError, match=f"method 'some' has no rule for the operation {message}"):
        [kind_of(step, "some") for step in tape.steps]


ROLES: dict[str, tuple[nn.Module, Role]] = {
    **{
        name: (getattr(nn, name)(), Role.RECTIFIER)
        for name in (
            "ReLU", "RReLU", "ReLU6", "SiLU", "Mish", "Hardswish", "ELU", "CELU", "SELU", "GELU", "LeakyReLU",
            "Softplus", "PReLU",
        )
    },
    **{name: (getattr(nn, name)(), Role.GATE) for name in ("Sigmoid", "Hardsigmoid")},
    **{
        name: (getattr(nn, name)(), Role.SATURATING)
        for name in ("Tanh", "Hardtanh", "Hardshrink", "Softshrink", "LogSigmoid", "Softsign", "Tanhshrink")
    },
    "steep leaky ReLU": (nn.LeakyReLU(0.8), Role.RECTIFIER),
    "wide CELU": (nn.CELU(6.0), Role.RECTIFIER),
    "PReLU of channels": (nn.PReLU(4), Role.RECTIFIER),
    "Threshold": (nn.Threshold(0.1, 0.0), Role.RECTIFIER),
    "Threshold to a constant": (nn.Threshold(0.1, 20.0), Role.SATURATING),
    "tanh GELU": (nn.GELU("tanh"), Role.RECTIFIER),
    "clamp": (Function(lambda x: x.clamp(min=0)), Role.RECTIFIER),
    "denominator": (Function(lambda x: x.clamp(min=1e-6)), Role.ARITHMETIC),
    "overflow": (Function(lambda x: x.clamp(-1e4, 1e4)), Role.ARITHMETIC),
    "from above": (Function(lambda x: x.clamp(max=5)), Role.ARITHMETIC),
    "of channels": (Function(lambda x: x.clamp(max=torch.arange(6.0, dtype=x.dtype))), Role.ARITHMETIC),
    "cube": (Function(lambda x: x**3), Role.ARITHMETIC),
    "exponential": (Function(torch.exp), Role.ARITHMETIC),
    "one over": (Function(torch.reciprocal), Role.ARITHMETIC),
    "over": (Function(lambda x: torch.div(torch.full_like(x, 2), x)), Role.ARITHMETIC),
    "product with itself": (Function(lambda x: x * x), Role.ARITHMETIC),
    "x sigmoid": (Function(lambda x: x * torch.sigmoid(1.7 * x)), Role.RECTIFIER),
}  # fmt: skip


@pytest.mark.parametrize("name", ROLES)
def test_role(name: str) -> None:
    model, role = ROLES[name]
    step = only(fused(tape_of(model)))
    assert kind_of(step, "x") is OpKind.ACTIVATION
    assert role_of(step) is role


def test_every_activation_of_torch_has_a_role_or_is_refused() -> None:
    others = {"GLU", "MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
    assert set(nn.modules.activation.__all__) - {"Threshold"} - others <= set(ROLES)
    tape_of(nn.GLU(1), (1, 4, 3, 6))  # a product with a gate
    for model in (nn.Softmax(-1), nn.LogSoftmax(-1), nn.Softmax2d()):
        assert kind_of(only(tape_of(model)), "x") is OpKind.SOFTMAX
    assert [kind_of(step, "x") for step in tape_of(nn.Softmin(1)).steps][1:] == [OpKind.SCALING, OpKind.SOFTMAX]


KINDS: dict[str, tuple[Callable[[Tensor], Any], OpKind]] = {
    "convolution": (nn.Conv2d(4, 2, 3), OpKind.MATRIX),
    "transposed": (nn.ConvTranspose2d(4, 2, 3), OpKind.MATRIX),
    "linear": (nn.Linear(6, 2), OpKind.MATRIX),
    "constant first": (lambda x: torch.ones(5, 3, dtype=x.dtype) @ x[0, 0], OpKind.MATRIX),
    "mean": (lambda x: x.mean((2, 3)), OpKind.AVERAGE),
    "adaptive": (nn.AdaptiveAvgPool2d((2, 3)), OpKind.AVERAGE),
    "enlarged": (nn.Upsample(scale_factor=2, mode="bilinear"), OpKind.AVERAGE),
    "times": (lambda x: x * 3, OpKind.SCALING),
    "over": (lambda x: x / torch.full((6,), 2.0), OpKind.SCALING),
    "negative": (lambda x: -x, OpKind.SCALING),
    "plus": (lambda x: x + torch.ones(6, dtype=x.dtype), OpKind.SHIFT),
    "from": (lambda x: 1 - x, OpKind.SHIFT),
    "one over channels": (lambda x: torch.ones(6, dtype=x.dtype) / x, OpKind.ACTIVATION),
    "maximum": (nn.MaxPool2d(2), OpKind.MAXIMUM),
    "largest": (lambda x: x.amax((2, 3)), OpKind.MAXIMUM),
    "layer norm": (nn.LayerNorm((3, 6)), OpKind.NORMALIZATION),
    "group norm": (nn.GroupNorm(2, 4), OpKind.NORMALIZATION),
    "batch norm": (nn.BatchNorm2d(4), OpKind.BATCH_NORM),
    "length": (lambda x: x.norm(dim=1), OpKind.L2_NORM),
}


@pytest.mark.parametrize("name", KINDS)
def test_kind(name: str) -> None:
    model, kind = KINDS[name]
    assert kind_of(only(tape_of(model)), "x") is kind


def test_kinds_of_two_values() -> None:
    def last_kind(function: Callable[[Tensor, Tensor], Tensor]) -> OpKind:
        return kind_of(tape_of(lambda x: function(x[0, 0], x[0, 1])).steps[-1], "x")

    assert last_kind(lambda a, b: a + b) is OpKind.SUM
    assert last_kind(lambda a, b: torch.sub(a, b, alpha=2)) is OpKind.SUM
    assert last_kind(lambda a, b: a * b) is OpKind.PRODUCT
    assert last_kind(lambda a, b: a / b) is OpKind.QUOTIENT
    assert last_kind(lambda a, b: a @ b.T) is OpKind.PRODUCT
    assert last_kind(lambda a, b: torch.addmm(torch.ones(3, dtype=a.dtype), a, b.T)) is OpKind.PRODUCT
    assert last_kind(lambda a, b: functional.conv2d(a[None, None], b[None, None, :2, :2])) is OpKind.PRODUCT
    assert last_kind(lambda a, b: torch.cat([a, b])) is OpKind.VIEW


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        return torch.sinh(inputs)

    @staticmethod
    def backward(ctx: Any, *messages: Tensor) -> Tensor:
        return messages[0]


@torch.library.custom_op("spadelens_tests::tripled", mutates_args=())
def tripled(inputs: Tensor) -> Tensor:
    return inputs * 3


def test_what_has_no_rule_is_refused_by_its_name() -> None:
    refused(lambda x: torch.cumsum(x, 1), "'cumsum' in this model")
    refused(lambda x: x.round(), "'round'")
    refused(lambda x: tripled(x), "'tripled'")
    refused(lambda x: Doubled.apply(x), "'sinh'")  # what it computes
    refused(lambda x: x * (x > 0), "'gt'")
    refused(lambda x: x + x.argmax(1, keepdim=True), "'argmax'")
    refused(nn.Upsample(scale_factor=2, mode="bicubic"), "'upsample_bicubic2d'")
    refused(lambda x: x**x, "'pow' of several values")
    refused(lambda x: torch.div(x, 2, rounding_mode="floor"), "'div' with rounding")
    refused(lambda x: torch.div(x, x + 9, rounding_mode="trunc"), "'div' with rounding")
    refused(lambda x: x * torch.div(x, 2, rounding_mode="floor"), "'div' with rounding")
    refused(lambda x: x + x.long().double(), "'_to_copy' to whole numbers")
    refused(lambda x: x.norm(p=1, dim=1), "'linalg_vector_norm' of another order than 2")
    refused(lambda x: torch.where(x[:, :1] > 0, x, 2 * x), "'gt'")
    refused(nn.BatchNorm2d(4, track_running_stats=False), "'native_batch_norm' with the statistics of the batch")
    refused(nn.InstanceNorm2d(4), "'native_batch_norm' with the statistics of the batch")
    refused(lambda x: functional.layer_norm(x, (6,), weight=x[0, 0, 0]), "'native_layer_norm' of several values")
    refused(lambda x: torch.addmm(x[0, 0, :3, :3], x[0, 1], torch.ones(6, 3, dtype=x.dtype)), "'addmm' with a bias")
    refused(lambda x: functional.conv2d(x, x[:, :, :2, :2], x[0, 0, 0, :1]), "'convolution' with a bias")
    refused(lambda x: functional.conv2d(torch.ones(SHAPE, dtype=x.dtype), x), "'convolution'")


def test_what_is_chosen_by_the_input_is_refused() -> None:
    """The step alone, as the condition before it is refused, too."""

    def last(function: Callable[[Tensor], Any]) -> Step:
        return tape_of(function).steps[-1]

    steps = {
        "where": last(lambda x: torch.where(x > 0, x, 1.0)),
        "masked_fill": last(lambda x: x.masked_fill(x > 0, 0.0)),
        "gather": last(lambda x: x.gather(1, x.argmax(1, keepdim=True))),
        "index": last(lambda x: torch.arange(4.0)[x.argmax(1)]),
        "index_select": last(lambda x: x.index_select(1, x[0, :, 0, 0].argsort())),
    }
    for name, step in steps.items():
        assert step.name == name
        with pytest.raises(AttributionError, match=f"'{name}' (on a condition|at positions) th"):
            kind_of(step, "x")
    for function in (
        lambda x: torch.where(torch.arange(6) > 2, x, 1.0),
        lambda x: torch.where(torch.arange(6) > 2, x, -x),
        lambda x: x.masked_fill(torch.arange(6) > 2, 0.0),
        lambda x: x.gather(1, torch.zeros(1, 1, 3, 6, dtype=torch.long)),
        lambda x: x[:, torch.tensor([0, 0, 2])],
        lambda x: x.index_select(1, torch.tensor([3, 1])),
    ):
        assert kind_of(last(function), "x") is OpKind.VIEW


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick GELU": lambda x: x * torch.sigmoid(1.702 * x),
    "tanh GELU": lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))),
    "erf GELU": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "Hardswish": lambda x: x * (functional.relu6(x + 3) / 6),
    "Hardswish without the factor": lambda x: x * functional.relu6(x + 3),
    "square": lambda x: x * x,
    "residual": lambda x: x + functional.relu(x),
    "softsign": lambda x: x / (1 + x.abs()),
    "mish": lambda x: x * torch.tanh(functional.softplus(x)),
    "hard sigmoid": lambda x: functional.relu6(x + 3) / 6,
    "hard sigmoid of Keras": lambda x: (x + 0.5).clamp(0, 1),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "nested": lambda x: (x * torch.sigmoid(x)) * torch.sigmoid(x * 3 - 1),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_become_one_activation(name: str) -> None:
    formula = FORMULAS[name]
    before = tape_of(lambda x: formula(x * torch.arange(6)) * torch.arange(1, 7))
    tape = fused(before)
    assert names_of(tape) == ["mul", POINTWISE, "mul"]
    (step,) = [step for step in tape.steps if step.name == POINTWISE]
    assert kind_of(step, "x") is OpKind.ACTIVATION
    probe = torch.linspace(-4, 4, 11, dtype=torch.float64)
    assert torch.allclose(step.run([probe])[0], formula(probe), atol=1e-12)
    other = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.equal(tape.forward(other)[tape.scores], before.forward(other)[before.scores])
    (slope,) = vjp(step, [probe], [torch.ones_like(probe)])
    leaf = probe.clone().requires_grad_()
    formula(leaf).sum().backward()
    assert slope is not None
    assert leaf.grad is not None
    assert torch.allclose(slope, leaf.grad, atol=1e-12)


def test_a_formula_begins_as_late_as_it_can() -> None:
    tape = fused(tape_of(lambda x: (y := 2 * x - 1) * torch.sigmoid(y)))
    assert names_of(tape) == ["mul", "sub", POINTWISE]


def test_roles_of_formulas() -> None:
    gates = ("hard sigmoid", "hard sigmoid of Keras", "sigmoid")
    others = {"square": Role.ARITHMETIC, "softsign": Role.SATURATING}
    for name, formula in FORMULAS.items():
        (step,) = [step for step in fused(tape_of(formula)).steps if step.name == POINTWISE]
        assert role_of(step) is (Role.GATE if name in gates else others.get(name, Role.RECTIFIER)), name


def test_values_of_a_formula_that_are_used_elsewhere_stay() -> None:
    def model(x: Tensor) -> Tensor:
        gate = torch.sigmoid(1.7 * x)
        return x * gate + gate.mean(1, keepdim=True) * torch.arange(6)

    before = tape_of(model)
    tape = fused(before)
    assert sorted(names_of(tape)) == sorted(["mul", "sigmoid", POINTWISE, "mean", "mul", "add"])
    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    gradients = [
        one.backward(start, lambda s, m, one=one: vjp(s, [one.values[n] for n in s.inputs], m))
        for one in (before, tape)
    ]
    assert torch.allclose(*gradients, atol=1e-12)


def test_what_is_no_formula_of_one_value_stays() -> None:
    def unchanged(function: Callable[[Tensor], Tensor]) -> None:
        tape = tape_of(function)
        assert [step.name for step in fused(tape).steps] == [step.name for step in tape.steps]

    # two values
    unchanged(lambda x: x[:, :2] * torch.sigmoid(x[:, 2:]))
    # one value, but not each number from the number in its place
    unchanged(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)))
    unchanged(lambda x: x * torch.sigmoid(x.flip(3)))
    unchanged(lambda x: x.view(4, 18) * torch.sigmoid(x.permute(1, 0, 3, 2).reshape(4, 18)))
    unchanged(lambda x: x[0, 0, 0] * torch.sigmoid(x[0, 0, 0, :, None]))
    # not the same function in all places
    unchanged(lambda x: x * torch.sigmoid(x * torch.arange(6)))
    unchanged(lambda x: x + functional.softmax(x, 1))
    # a row that is no gate, or already one step
    unchanged(lambda x: functional.relu6(x + 3))
    unchanged(lambda x: functional.relu(x) / 6)
    unchanged(lambda x: torch.sigmoid(x) * 2)
    unchanged(lambda x: functional.leaky_relu(x, 0.01))
    unchanged(lambda x: functional.softplus(x) * 0.1)
    unchanged(lambda x: torch.exp(x) * 0.01)
    # a constant that adds an axis
    unchanged(lambda x: (row := x[0, 0, 0]) * torch.sigmoid(row + torch.ones(1, 1)))
    unchanged(lambda x: ((row := x[0, 0, 0]) + torch.ones(1, 1)) * torch.sigmoid(row + torch.ones(1, 1)))


def test_what_nobody_needs_is_left_out() -> None:
    tape = fused(tape_of(lambda x: (torch.sin(x), torch.cumsum(x, 1), x * 2)[2]))
    assert names_of(tape) == ["mul"]


@pytest.mark.parametrize("has_weight", [True, False])
def test_normalization_restated(has_weight: bool) -> None:
    torch.manual_seed(0)
    for norm in (
        nn.LayerNorm((3, 6), eps=0.01, elementwise_affine=has_weight),
        nn.LayerNorm(6, eps=0.3, elementwise_affine=has_weight),
        nn.GroupNorm(2, 4, eps=0.2, affine=has_weight),
    ):
        if has_weight:
            nn.init.normal_(norm.weight)
        tape = tape_of(norm)
        step = only(tape)
        inputs = tape.values[step.inputs[0]]
        shape, weight, epsilon = normalization_of(step, inputs)
        grouped = inputs.reshape(shape)
        centered = grouped - grouped.mean(-1, keepdim=True)
        normal = centered / (centered.square().mean(-1, keepdim=True) + epsilon).sqrt()
        assert torch.allclose(normal.reshape(inputs.shape) * weight, tape.values[step.output], atol=1e-12)
        assert epsilon == norm.eps
