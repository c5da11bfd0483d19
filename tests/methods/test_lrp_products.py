"""How products, activations and normalizations hand relevance back, against a restatement."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from references import lrp as reference
from references.lrp_nets import EPSILON, Net, close, flat, noise, of_average, of_head, of_linear, relevance
from torch import Tensor, nn
from torch.nn import functional as F

from spadelens.methods.lrp import COMPOSITES

every_rule = pytest.mark.parametrize("rule", COMPOSITES)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_a_gate_gets_nothing() -> None:
    """Squeeze and excitation: what is gated gets all, and what makes the gate gets nothing."""

    def forward(net: Any, x: Tensor) -> Tensor:
        gate = torch.sigmoid(net.rise(F.relu(net.squeeze(x.mean((2, 3))))))
        return net.head((x * gate[:, :, None, None]).mean((2, 3)))

    model = Net(forward, squeeze=nn.Linear(4, 2), rise=nn.Linear(2, 4), head=nn.Linear(4, 3))
    sample = noise(1, 4, 3, 2)
    gate = torch.sigmoid(model.rise(F.relu(model.squeeze(sample.mean((2, 3))))))
    gated = sample * gate[:, :, None, None]
    given = of_average(gated, of_head(model.head, gated.mean((2, 3))))
    close(relevance(model, sample), given)


def test_a_factor_that_is_spread_over_the_other_gets_nothing() -> None:
    """A gate, whatever function makes it."""
    model = Net(
        lambda net, x: net.head((F.relu(net.gate(x.mean(2)))[:, :, None] * x).flatten(1)),
        gate=nn.Linear(3, 3),
        head=nn.Linear(12, 2),
    )
    sample = noise(1, 3, 4)
    gate = F.relu(model.gate(sample.mean(2)))[:, :, None]
    assert gate.any()
    close(relevance(model, sample), of_head(model.head, (gate * sample).flatten(1)))


@pytest.mark.parametrize("gate", [torch.sigmoid, F.hardsigmoid], ids=["sigmoid", "hardsigmoid"])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_gate_of_the_same_shape_gets_nothing(gate: Callable[[Tensor], Tensor], is_first: bool) -> None:
    model = Net(
        lambda net, x: net.head(gate(net.gate(x)) * net.values(x) if is_first else net.values(x) * gate(net.gate(x))),
        gate=nn.Linear(4, 5),
        values=nn.Linear(4, 5),
        head=nn.Linear(5, 2),
    )
    sample = noise(1, 4)
    given = of_head(model.head, model.values(sample) * gate(model.gate(sample)))
    close(relevance(model, sample), of_linear(model.values, sample[None], given))


def test_two_factors_get_half_each() -> None:
    model = Net(
        lambda net, x: net.head(net.first(x) * F.silu(net.second(x))),
        first=nn.Linear(4, 5),
        second=nn.Linear(4, 5),
        head=nn.Linear(5, 2),
    )
    sample = noise(1, 4)
    half = [r / 2 for r in of_head(model.head, model.first(sample) * F.silu(model.second(sample)))]
    parts = [of_linear(layer, sample[None], half) for layer in (model.first, model.second)]
    close(relevance(model, sample), [a + b for a, b in zip(*parts, strict=True)])


def test_two_matrices_get_half_each() -> None:
    """Each is a layer for the other."""
    model = Net(lambda net, x: net.head((x[:, :2] @ x[:, 2:].transpose(1, 2)).flatten(1)), head=nn.Linear(6, 2))
    sample = noise(1, 5, 4)
    first, second = sample[0, :2], sample[0, 2:]
    given = [r / 2 for r in of_head(model.head, (first @ second.T).flatten()[None])]
    by_row = [
        part
        for row, values in enumerate(first)
        for part in reference.propagate(
            reference.dense(second), [0.0] * 3, flat(values), given[3 * row : 3 * row + 3], epsilon=EPSILON
        )
    ]
    by_column = [
        part
        for column, values in enumerate(second)
        for part in reference.propagate(
            reference.dense(first), [0.0] * 2, flat(values), given[column::3], epsilon=EPSILON
        )
    ]
    close(relevance(model, sample), by_row + by_column)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "gelu": F.gelu,
    "tanh_gelu": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "silu_by_hand": lambda x: x * torch.sigmoid(x),
    "gelu_by_hand": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))),
    "hardswish": F.hardswish,
    "hardswish_by_hand": lambda x: x * F.relu6(x + 3) / 6,
    "mish": F.mish,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_let_relevance_pass(name: str) -> None:
    function = ACTIVATIONS[name]
    model = Net(lambda net, x: net.head(function(net.first(x))), first=nn.Linear(4, 6), head=nn.Linear(6, 2))
    sample = noise(1, 4)
    given = of_head(model.head, function(model.first(sample)))
    close(relevance(model, sample), of_linear(model.first, sample[None], given))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("has_zeros", [True, False])
def test_layer_normalization(affine: bool, has_zeros: bool) -> None:
    """A linear layer, since the standard deviation counts as a constant."""
    model = Net(
        lambda net, x: net.head(net.norm(x).flatten(1)),
        norm=nn.LayerNorm(4, elementwise_affine=affine, eps=1e-3),
        head=nn.Linear(12, 2),
    )
    weights, bias = torch.ones(4), torch.zeros(4)
    if affine:
        nn.init.normal_(model.norm.weight)
        nn.init.normal_(model.norm.bias)
        model.norm.weight.data[2] = 0
        weights, bias = model.norm.weight.data, model.norm.bias.data
    sample = noise(1, 3, 4) + 1
    if has_zeros:
        sample[0, 1] = 0
    given = of_head(model.head, model.norm(sample).flatten(1))
    layer = reference.normalization(flat(sample), flat(weights) * 3, 4, 1e-3)
    assert reference.outputs_of(layer, flat(bias) * 3, flat(sample)) == pytest.approx(flat(model.norm(sample)))
    close(relevance(model, sample), reference.propagate(layer, flat(bias) * 3, flat(sample), given, epsilon=EPSILON))


@pytest.mark.parametrize(("groups", "shape"), [(2, (4, 3, 2)), (1, (3, 2)), (3, (3, 1, 2))])
def test_group_normalization(groups: int, shape: tuple[int, ...]) -> None:
    model = Net(
        lambda net, x: net.head(net.norm(F.relu(x)).flatten(1)),
        norm=nn.GroupNorm(groups, shape[0]),
        head=nn.Linear(int(np.prod(shape)), 2),
    )
    nn.init.normal_(model.norm.weight)
    nn.init.normal_(model.norm.bias)
    sample = noise(1, *shape)
    sample[:, : shape[0] // groups] = -1  # a group without a positive value
    values = F.relu(sample)
    positions = int(np.prod(shape[1:]))
    weights, bias = (flat(part.repeat_interleave(positions)) for part in (model.norm.weight, model.norm.bias))
    layer = reference.normalization(flat(values), weights, values.numel() // groups, 1e-5)
    assert reference.outputs_of(layer, bias, flat(values)) == pytest.approx(flat(model.norm(values)))
    given = of_head(model.head, model.norm(values).flatten(1))
    close(relevance(model, sample), reference.propagate(layer, bias, flat(values), given, epsilon=EPSILON))


@pytest.mark.parametrize("form", ["functional", "products", "module", "module with weights"])
def test_attention(form: str) -> None:
    """The weights count as constants: relevance goes through the values alone, head by head."""

    def project(net: Any, x: Tensor) -> list[Tensor]:
        parts = F.linear(x, net.attention.in_proj_weight, net.attention.in_proj_bias).chunk(3, -1)
        return [part.unflatten(-1, (2, 3)).transpose(1, 2) for part in parts]

    def mixed(net: Any, x: Tensor) -> Tensor:
        query, key, value = project(net, x)
        if form == "functional":
            return F.scaled_dot_product_attention(query, key, value)
        return torch.softmax(query @ key.transpose(-2, -1) / 3**0.5, -1) @ value

    def forward(net: Any, x: Tensor) -> Tensor:
        if form.startswith("module"):
            return net.head(net.attention(x, x, x, need_weights="weights" in form)[0].flatten(1))
        return net.head(net.attention.out_proj(mixed(net, x).transpose(1, 2).flatten(2)).flatten(1))

    model = Net(forward, attention=nn.MultiheadAttention(6, 2, batch_first=True), head=nn.Linear(24, 2))
    nn.init.normal_(model.attention.in_proj_bias)
    nn.init.normal_(model.attention.out_proj.bias)
    sample = noise(1, 4, 6)
    query, key, value = (part.detach() for part in project(model, sample))
    weights = torch.softmax(query @ key.transpose(-2, -1) / 3**0.5, -1)
    values = (weights @ value).transpose(1, 2).flatten(2)
    given = of_head(model.head, model.attention.out_proj(values).flatten(1))
    given = of_linear(model.attention.out_proj, values, given)
    of_values = [0.0] * 24
    for token, head, feature in product(range(4), range(2), range(3)):  # one output of the mix of tokens at a time
        parts = reference.propagate(
            reference.dense(weights[0, head, token][None]),
            [0.0],
            flat(value[0, head, :, feature]),
            [given[token * 6 + head * 3 + feature]],
            epsilon=EPSILON,
        )
        for other, part in enumerate(parts):
            of_values[other * 6 + head * 3 + feature] += part
    projection = nn.Linear(6, 6).double()
    projection.weight.data = model.attention.in_proj_weight.data[12:]
    projection.bias.data = model.attention.in_proj_bias.data[12:]
    close(relevance(model, sample), of_linear(projection, sample, of_values))


def test_the_largest_value_takes_all() -> None:
    model = Net(lambda net, x: net.head(net.pool(x).flatten(1)), pool=nn.MaxPool2d(2, 1), head=nn.Linear(12, 2))
    sample = noise(1, 2, 3, 4)
    given = of_head(model.head, model.pool(sample).flatten(1))
    windows = [
        [channel * 12 + (row + i) * 4 + column + j for i in (0, 1) for j in (0, 1)]
        for channel, row, column in product(range(2), range(2), range(3))
    ]
    close(relevance(model, sample), reference.of_maximum(windows, flat(sample), given))
    whole = Net(lambda net, x: net.head(x.amax((2, 3))), head=nn.Linear(2, 2))
    given = of_head(whole.head, sample.amax((2, 3)))
    windows = [list(range(12)), list(range(12, 24))]
    close(relevance(whole, sample), reference.of_maximum(windows, flat(sample), given))


FACTORS: dict[str, Callable[[Tensor], Tensor]] = {
    "normalize": lambda x: F.normalize(x, dim=1),
    "quotient": lambda x: x / x.norm(dim=1, keepdim=True),
    "root mean square": lambda x: x * torch.rsqrt(x.pow(2).sum(1, keepdim=True)),
    "of the same shape": lambda x: x * torch.rsqrt(x.pow(2).sum(1, keepdim=True)).expand(x.shape),
}


@pytest.mark.parametrize("name", FACTORS)
def test_a_normalizing_factor_gets_nothing(name: str) -> None:
    model = Net(lambda net, x: net.head(FACTORS[name](x)), head=nn.Linear(5, 2))
    sample = noise(1, 5)
    close(relevance(model, sample), of_head(model.head, sample / sample.norm()))


@pytest.mark.parametrize("form", ["norm", "by hand"])
def test_a_length_hands_back_by_squares(form: str) -> None:
    """|x| is the sum of x_i x_i / |x|."""
    model = Net(
        lambda net, x: net.head(x.norm(dim=2) if form == "norm" else x.pow(2).sum(2).sqrt()), head=nn.Linear(3, 2)
    )
    sample = noise(1, 3, 4)
    given = of_head(model.head, sample.norm(dim=2))
    shares = (sample**2 / (sample**2).sum(2, keepdim=True))[0]
    close(relevance(model, sample), flat(shares * torch.tensor(given, dtype=torch.float64)[:, None]))


RULES = {  # of the layers that see the input, of other convolutions, and of linear layers
    "epsilon-plus": ("z-plus", "z-plus", "epsilon"),
    "epsilon-plus-flat": ("flat", "z-plus", "epsilon"),
    "epsilon-alpha-beta": ("alpha-beta", "alpha-beta", "epsilon"),
    "epsilon-alpha-beta-flat": ("flat", "alpha-beta", "epsilon"),
    "epsilon-gamma": ("gamma", "gamma", "epsilon"),
    "epsilon": ("epsilon", "epsilon", "epsilon"),
    "gamma": ("gamma", "gamma", "gamma"),
    "alpha-beta": ("alpha-beta", "alpha-beta", "alpha-beta"),
    "z-plus": ("z-plus", "z-plus", "z-plus"),
}


@every_rule
def test_the_rule_of_a_layer_is_that_of_its_kind(rule: str) -> None:
    """Two layers see the input, however it is normalized or turned round."""

    def forward(net: Any, x: Tensor) -> Tensor:
        values = F.relu(net.first((x - 0.5) / 0.2)) + net.side(x.flip(2))
        return net.head(F.relu(net.second(values)).flatten(1))

    model = Net(
        forward, first=nn.Conv1d(1, 2, 2), side=nn.Conv1d(1, 2, 2), second=nn.Conv1d(2, 2, 2), head=nn.Linear(8, 2)
    )
    nn.init.constant_(model.second.bias, 3.0)

    def of_convolution(layer: nn.Conv1d, inputs: Tensor, given: list[float], rule: str) -> list[float]:
        size = inputs.shape[2]
        return reference.propagate(
            reference.convolution(layer.weight.data, (size,)),
            flat(layer.bias.repeat_interleave(size - 1)),
            flat(inputs),
            given,
            rule,
            epsilon=EPSILON,
            gamma=0.4,
            alpha=1.7,
        )

    first, other, dense = RULES[rule]
    sample = noise(1, 1, 6)
    inputs = [(sample - 0.5) / 0.2, sample.flip(2)]
    values = [F.relu(model.first(inputs[0])), model.side(inputs[1])]
    hidden = F.relu(model.second(sum(values))).flatten(1)
    outputs = flat(model.head(hidden))
    assert (hidden > 0).sum() > 3
    head = reference.dense(model.head.weight.data)
    given = reference.propagate(
        head, model.head.bias.tolist(), flat(hidden), [outputs[0], 0.0], dense, EPSILON, gamma=0.4, alpha=1.7
    )
    given = of_convolution(model.second, sum(values), given, other)
    parts = reference.of_sum(*map(flat, values), given, EPSILON)
    of_first = of_convolution(model.first, inputs[0], parts[0], first)
    of_side = of_convolution(model.side, inputs[1], parts[1], first)
    of_first = reference.of_shift(flat(sample), [-0.5] * 6, of_first, EPSILON, [list(range(6))])
    found = relevance(model, sample, rule=rule, gamma=0.4, alpha=1.7)
    close(found, [a + b for a, b in zip(of_first, of_side[::-1], strict=True)])
