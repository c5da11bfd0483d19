"""How layers, sums and joined values hand relevance back, against a restatement."""

from collections.abc import Iterator
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
    wanted = reference.propagate(layer, bias, flat(sample), given, epsilon=EPSILON)
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
    close(relevance(model, sample), reference.propagate(layer, bias, flat(sample), given, "z-plus"))


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
    through = reference.propagate(
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
