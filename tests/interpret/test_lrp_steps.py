"""How operations hand relevance back: networks of a few of them, against a restatement."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from references import lrp as reference
from torch import Tensor, nn
from torch.nn import functional as F

from spadelens.interpret.lrp import COMPOSITES, LRP

EPSILON = 0.07
every_rule = pytest.mark.parametrize("rule", COMPOSITES)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """A function with a few layers, in float64."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.double().eval()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def relevance(model: nn.Module, sample: Tensor, target: int = 0, **settings: Any) -> Tensor:
    settings = {"rule": "epsilon-plus", "epsilon": EPSILON, **settings}
    return LRP(**{"stabilizer": settings["epsilon"], **settings}).attribute(model.eval(), sample, target).values


def flat(values: Tensor) -> list[float]:
    return values.detach().flatten().tolist()


def close(found: Tensor, wanted: list[float]) -> None:
    np.testing.assert_allclose(found.flatten(), wanted, rtol=1e-9, atol=1e-10 * np.abs(wanted).max())


def of_head(head: nn.Linear, values: Tensor, target: int = 0) -> list[float]:
    """Return the relevance of the values that a last linear layer is called with, by the rule epsilon."""
    outputs = flat(head(values))
    given = [score if number == target else 0.0 for number, score in enumerate(outputs)]
    layer = reference.dense(head.weight.data)
    return reference.hand_back(layer, head.bias.tolist(), flat(values), given, epsilon=EPSILON)


def of_linear(layer: nn.Linear, values: Tensor, given: list[float]) -> list[float]:
    """Return the relevance of tokens `[1, tokens, features]`, each of which a linear layer is applied to."""
    rows, size = values.detach()[0], layer.out_features
    return [
        part
        for number, row in enumerate(rows)
        for part in reference.hand_back(
            reference.dense(layer.weight.data),
            layer.bias.tolist(),
            flat(row),
            given[number * size : (number + 1) * size],
            epsilon=EPSILON,
        )
    ]


def of_average(values: Tensor, given: list[float]) -> list[float]:
    """Return the relevance of values `[1, channels, ...]` of whose channels means are taken."""
    channels, size = values.shape[1], values[0, 0].numel()
    layer = [{channel * size + place: 1 / size for place in range(size)} for channel in range(channels)]
    return reference.hand_back(layer, [0.0] * channels, flat(values), given, epsilon=EPSILON)


class Folding(nn.Module):
    """Layers with normalizations behind, and the same with the normalizations multiplied into their weights."""

    def __init__(self, is_folded: bool) -> None:
        super().__init__()
        self.is_folded = is_folded
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(3, 4, 3, 2, padding=1),
                nn.Conv2d(4, 4, 3, groups=4, padding=2, dilation=2, bias=False),
                nn.Conv2d(4, 6, 1, groups=2),
                nn.Linear(24, 5, bias=False),
                nn.Linear(5, 3),
            ]
        )
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm2d(4),
                nn.BatchNorm2d(4, eps=1e-2),
                nn.BatchNorm2d(6, affine=False),
                nn.BatchNorm1d(5),
                nn.BatchNorm1d(3),
            ]
        )
        for norm in self.norms:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.normal_(norm.weight)  # negative ones, too
                nn.init.normal_(norm.bias)
        self.double().eval()

    def forward(self, inputs: Tensor) -> Tensor:
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            outputs = self.folded(layer, norm, inputs) if self.is_folded else norm(layer(inputs))
            inputs = F.relu(outputs) if number < 4 else outputs
            inputs = inputs.flatten(1) if number == 2 else inputs
        return inputs

    def folded(self, layer: Any, norm: Any, inputs: Tensor) -> Tensor:
        scale = (1.0 if norm.weight is None else norm.weight) / (norm.running_var + norm.eps).sqrt()
        weight = layer.weight * scale.view(-1, *[1] * (layer.weight.dim() - 1))
        bias = scale * ((0.0 if layer.bias is None else layer.bias) - norm.running_mean)
        bias = bias + (0.0 if norm.bias is None else norm.bias)
        if isinstance(layer, nn.Linear):
            return F.linear(inputs, weight, bias)
        return F.conv2d(inputs, weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)


@every_rule
def test_batch_normalizations_are_folded(rule: str) -> None:
    model, folded = Folding(is_folded=False), Folding(is_folded=True)
    folded.load_state_dict(model.state_dict())
    sample = noise(1, 3, 4, 3, seed=3)
    torch.testing.assert_close(model(sample), folded(sample))
    assert any(bool((norm.weight < 0).any()) for norm in model.norms if norm.affine)
    for target in range(3):
        torch.testing.assert_close(
            relevance(model, sample, target, rule=rule), relevance(folded, sample, target, rule=rule)
        )


def normalized(norm: Any) -> Any:
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def of_norm(norm: Any, values: Tensor, given: list[float]) -> list[float]:
    """Return the relevance of the inputs of a batch normalization that is not folded."""
    constants = norm(torch.zeros_like(values))
    channels, positions = values.shape[1], values[0, 0].numel()
    places = [[channel * positions + position for channel in range(channels)] for position in range(positions)]
    return reference.of_shift(flat(norm(values) - constants), flat(constants), given, EPSILON, places)


def test_a_convolution_whose_output_is_used_twice_is_not_folded() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        values = net.conv(x)
        return net.head((net.norm(values) + values).flatten(1))

    model = Net(forward, conv=nn.Conv2d(2, 3, 2), norm=normalized(nn.BatchNorm2d(3)), head=nn.Linear(12, 2))
    sample = noise(1, 2, 3, 3)
    values = model.conv(sample)
    given = of_head(model.head, (model.norm(values) + values).flatten(1))
    first, second = reference.of_sum(flat(model.norm(values)), flat(values), given, EPSILON)
    given = [a + b for a, b in zip(of_norm(model.norm, values, first), second, strict=True)]
    layer = reference.convolution(model.conv.weight.data, (3, 3))
    bias = flat(model.conv.bias.repeat_interleave(4))
    wanted = reference.hand_back(layer, bias, flat(sample), given, epsilon=EPSILON)
    close(relevance(model, sample, rule="epsilon"), wanted)


def test_a_transposed_convolution_is_not_folded() -> None:
    model = Net(
        lambda net, x: net.head(net.norm(net.conv(x)).flatten(1)),
        conv=nn.ConvTranspose2d(3, 3, 2, stride=2),
        norm=normalized(nn.BatchNorm2d(3)),
        head=nn.Linear(48, 2),
    )
    sample = noise(1, 3, 2, 2)
    values = model.conv(sample)
    given = of_norm(model.norm, values, of_head(model.head, model.norm(values).flatten(1)))
    layer = reference.transposed_convolution(model.conv.weight.data, (2, 2), stride=2)
    bias = flat(model.conv.bias.repeat_interleave(16))
    close(relevance(model, sample), reference.hand_back(layer, bias, flat(sample), given, "z-plus"))


def test_a_product_whose_rows_are_normalized_is_not_folded() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        outputs = torch.bmm(x, net.matrix.weight.T[None]) if net.is_bmm else net.matrix(x)
        return net.norm(outputs).mean(2)

    model = Net(forward, matrix=nn.Linear(4, 3, bias=False), norm=nn.BatchNorm1d(3))
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    found = []
    for is_bmm in (False, True):
        model.is_bmm = is_bmm
        found.append(relevance(model, noise(1, 3, 4)))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize(
    ("shape", "norm"), [((5,), nn.BatchNorm1d(5)), ((3, 4), nn.BatchNorm1d(3)), ((2, 3, 4), nn.BatchNorm2d(2))]
)
@pytest.mark.parametrize("has_zeros", [False, True])
def test_a_batch_normalization_without_a_layer_before_it(shape: tuple[int, ...], norm: Any, has_zeros: bool) -> None:
    size = int(np.prod(shape))
    model = Net(lambda net, x: net.head(net.norm(F.relu(x)).flatten(1)), norm=normalized(norm), head=nn.Linear(size, 3))
    sample = noise(1, *shape, seed=2)
    if has_zeros:
        sample[:, 0] = -1
        sample[..., 0] = -1  # a place where nothing is positive
    values = F.relu(sample)
    given = of_head(model.head, model.norm(values).flatten(1))
    close(relevance(model, sample), of_norm(model.norm, values, given))


def test_a_constant_added_to_every_token() -> None:
    """What the embeddings of positions get, the features of their token get."""
    model = Net(lambda net, x: net.head((x + net.positions.weight).flatten(1)), positions=nn.Embedding(3, 4))
    model.head = nn.Linear(12, 2).double()
    sample = noise(1, 3, 4)
    sample[:, 1] = 0
    constants = model.positions.weight.data
    given = of_head(model.head, (sample + constants).flatten(1))
    places = [[token * 4 + feature for feature in range(4)] for token in range(3)]
    close(relevance(model, sample), reference.of_shift(flat(sample), flat(constants), given, EPSILON, places))


@pytest.mark.parametrize("form", ["image", "channels last"])
def test_a_normalization_of_colors_inside_the_model(form: str) -> None:
    """The constants of the colors are shared out among the colors of a pixel, whichever axis they are in."""
    mean = torch.tensor([0.4, 0.5, 0.6]).double()
    if form == "image":
        model = Net(lambda net, x: net.head(((x - mean.view(3, 1, 1)) / 0.3).flatten(1)), head=nn.Linear(24, 2))
    else:
        model = Net(
            lambda net, x: net.head(((x.permute(0, 2, 3, 1) - mean) / 0.3).permute(0, 3, 1, 2).flatten(1)),
            head=nn.Linear(24, 2),
        )
    sample = noise(1, 3, 2, 4).abs()
    sample[:, :, 0, 1] = 0  # a black pixel
    constants = -mean.view(1, 3, 1, 1).expand_as(sample)
    given = of_head(model.head, ((sample + constants) / 0.3).flatten(1))
    places = [[color * 8 + pixel for color in range(3)] for pixel in range(8)]
    close(relevance(model, sample), reference.of_shift(flat(sample), flat(constants), given, EPSILON, places))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_residual_sums(sign: float) -> None:
    model = Net(
        lambda net, x: net.head(x + net.branch(x) if sign > 0 else x - net.branch(x)),
        branch=nn.Linear(5, 5),
        head=nn.Linear(5, 3),
    )
    sample = noise(1, 5)
    sample[0, 2] = 0
    model.branch.weight.data[2], model.branch.bias.data[2] = 0, 0  # both summands are 0
    summand = sign * model.branch(sample)
    given = of_head(model.head, sample + summand)
    assert given[2] == 0
    first, second = reference.of_sum(flat(sample), flat(summand), given, EPSILON)
    through = reference.hand_back(
        reference.dense(model.branch.weight.data), model.branch.bias.tolist(), flat(sample), second, epsilon=EPSILON
    )
    close(relevance(model, sample), [a + b for a, b in zip(first, through, strict=True)])


def test_two_summands_of_zero_get_half_each() -> None:
    model = Net(lambda net, x: net.head(x[:, :3] + x[:, 3:]), head=nn.Linear(3, 2))
    model.head.weight.data[:] = 0  # so that the values get equal parts of the bias
    model.head.bias.data[:] = 60
    found = relevance(model, torch.tensor([[0.0, 1, 2, 0, 3, 2]]).double(), epsilon=0.0)
    assert found[0].tolist() == pytest.approx([10, 5, 10, 10, 15, 10])


def test_a_summand_that_is_spread_over_the_other() -> None:
    model = Net(lambda net, x: net.head((x + x.mean(2, keepdim=True)).flatten(1)), head=nn.Linear(8, 2))
    sample = noise(1, 2, 4)
    means = sample.mean(2, keepdim=True)
    given = of_head(model.head, (sample + means).flatten(1))
    first, second = reference.of_sum(flat(sample), flat(means.expand_as(sample)), given, EPSILON)
    through = of_average(sample, [sum(second[:4]), sum(second[4:])])
    close(relevance(model, sample), [a + b for a, b in zip(first, through, strict=True)])


def test_joined_branches() -> None:
    model = Net(
        lambda net, x: net.head(torch.cat([net.first(x), x, net.second(x)], 1)),
        first=nn.Linear(4, 2),
        second=nn.Linear(4, 3),
        head=nn.Linear(9, 2),
    )
    sample = noise(1, 4)
    given = of_head(model.head, torch.cat([model.first(sample), sample, model.second(sample)], 1))
    close(
        relevance(model, sample),
        [
            a + b + c
            for a, b, c in zip(
                of_linear(model.first, sample[None], given[:2]),
                given[2:6],
                of_linear(model.second, sample[None], given[6:]),
                strict=True,
            )
        ],
    )


def test_a_class_token_and_embeddings_of_positions() -> None:
    """What the class token gets goes to the patches, by their own relevance."""

    def forward(net: Any, x: Tensor) -> Tensor:
        tokens = torch.cat([net.token.weight[None], net.patches(x)], 1) + net.positions.weight
        return net.head(F.gelu(tokens).flatten(1))

    model = Net(
        forward,
        patches=nn.Linear(5, 3),
        token=nn.Embedding(1, 3),
        positions=nn.Embedding(3, 3),
        head=nn.Linear(9, 2),
    )
    sample = noise(1, 2, 5)
    before = torch.cat([model.token.weight.data[None], model.patches(sample)], 1)
    given = of_head(model.head, F.gelu(before + model.positions.weight).flatten(1))
    places = [[token * 3 + feature for feature in range(3)] for token in range(3)]
    joined = reference.of_shift(flat(before), flat(model.positions.weight), given, EPSILON, places)
    patches = reference.without_constants(joined, [True] * 3 + [False] * 6)
    assert sum(patches) == pytest.approx(sum(given))
    close(relevance(model, sample), of_linear(model.patches, sample, patches))


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
        for part in reference.hand_back(
            reference.dense(second), [0.0] * 3, flat(values), given[3 * row : 3 * row + 3], epsilon=EPSILON
        )
    ]
    by_column = [
        part
        for column, values in enumerate(second)
        for part in reference.hand_back(
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
    close(relevance(model, sample), reference.hand_back(layer, flat(bias) * 3, flat(sample), given, epsilon=EPSILON))


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
    close(relevance(model, sample), reference.hand_back(layer, bias, flat(values), given, epsilon=EPSILON))


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
        parts = reference.hand_back(
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
        return reference.hand_back(
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
    given = reference.hand_back(
        head, model.head.bias.tolist(), flat(hidden), [outputs[0], 0.0], dense, EPSILON, gamma=0.4, alpha=1.7
    )
    given = of_convolution(model.second, sum(values), given, other)
    parts = reference.of_sum(*map(flat, values), given, EPSILON)
    of_first = of_convolution(model.first, inputs[0], parts[0], first)
    of_side = of_convolution(model.side, inputs[1], parts[1], first)
    of_first = reference.of_shift(flat(sample), [-0.5] * 6, of_first, EPSILON, [list(range(6))])
    found = relevance(model, sample, rule=rule, gamma=0.4, alpha=1.7)
    close(found, [a + b for a, b in zip(of_first, of_side[::-1], strict=True)])
