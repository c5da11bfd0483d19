"""Units of models: what they are by definition, the texts that name them, and refusals."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from references.networks import seeded
from torch import Tensor, nn

from spadelens.errors import InputError, ModelOutputError, SpadeError, UnknownNameError
from spadelens.visualization.objectives import (
    Channel,
    ClassScore,
    Difference,
    Direction,
    Neuron,
    Objective,
    ObjectiveLike,
    describe_objective,
    evaluate,
    parse_objective,
)

NAMES = ("ring", "star - five points", "B: side", "crane", "Crane")


class Net(nn.Module):
    """Convolutions with an activation in place behind the first one, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 5, 3)
        self.unused = nn.Conv2d(4, 5, 3)
        self.linear = nn.Linear(5, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.second(self.relu(self.first(inputs))).mean((2, 3)))


class Tokens(nn.Module):
    """Attention on patches: tokens [B, T, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.act = nn.GELU()
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = self.norm(self.embed(inputs).flatten(2).transpose(1, 2))
        tokens = self.act(tokens + self.attention(tokens, tokens, tokens)[0])
        return self.head(tokens)[:, 0]


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Module:
    return seeded(Net)


BATCH = inputs(2, 3, 9, 7)


def test_a_class(net: nn.Module) -> None:
    assert torch.equal(evaluate(ClassScore(4), net, BATCH), net(BATCH)[:, 4])


def test_a_channel_is_its_mean_and_a_neuron_one_place(net: Any) -> None:
    features = net.second(net.relu(net.first(BATCH)))
    assert torch.allclose(evaluate(Channel("second", 3), net, BATCH), features[:, 3].mean((1, 2)))
    assert torch.equal(evaluate(Neuron("second", 3, (1, 2)), net, BATCH), features[:, 3, 1, 2])
    assert features.shape[2:] == (5, 3)
    assert torch.equal(evaluate(Neuron("second", 3), net, BATCH), features[:, 3, 2, 1])  # in the middle
    assert torch.equal(evaluate(Channel("linear", 5), net, BATCH), net(BATCH)[:, 5])
    assert torch.equal(evaluate(Neuron("linear", 5), net, BATCH), net(BATCH)[:, 5])


def test_a_unit_before_an_activation_that_works_in_place(net: Any) -> None:
    before = net.first(BATCH)
    assert bool((before < 0).any())
    assert torch.allclose(evaluate(Channel("first", 2), net, BATCH), before[:, 2].mean((1, 2)))
    assert torch.allclose(evaluate(Channel("relu", 2), net, BATCH), before.relu()[:, 2].mean((1, 2)))


def test_a_direction_and_a_difference(net: Any) -> None:
    features = net.second(net.relu(net.first(BATCH)))
    direction = inputs(5).double()
    expected = (features * direction.float().view(1, 5, 1, 1)).sum(1).mean((1, 2))
    assert torch.allclose(evaluate(Direction("second", direction), net, BATCH), expected, atol=1e-6)
    found = evaluate(Difference(Channel("first", 0), ClassScore(1)), net, BATCH)
    assert torch.allclose(found, net.first(BATCH)[:, 0].mean((1, 2)) - net(BATCH)[:, 1])
    assert Difference(Channel("first", 0), Difference(Channel("first", 1), Channel("second", 0))).layers == (
        "first",
        "second",
    )


def test_directions_are_told_apart() -> None:
    first, second = Direction("a", torch.ones(3)), Direction("a", torch.tensor([1.0, 1.0, 1.5]))
    assert first.spec() != second.spec()
    assert first.spec() == Direction("a", torch.ones(3)).spec()


def test_tokens_have_their_channels_last() -> None:
    model: Any = seeded(Tokens)
    batch = inputs(2, 3, 6, 4)
    tokens = model.norm(model.embed(batch).flatten(2).transpose(1, 2))
    assert tokens.shape == (2, 6, 8)
    assert torch.allclose(evaluate(Channel("norm", 7), model, batch), tokens[:, :, 7].mean(1))
    assert torch.equal(evaluate(Neuron("norm", 7, (5,)), model, batch), tokens[:, 5, 7])
    acted = model.act(tokens + model.attention(tokens, tokens, tokens)[0])
    assert torch.allclose(evaluate(Neuron("act", 7), model, batch), acted[:, 3, 7], atol=1e-6)
    assert torch.allclose(evaluate(Neuron("head", 3, (0,)), model, batch), model(batch)[:, 3], atol=1e-6)
    assert torch.allclose(evaluate(Channel("embed", 7), model, batch), model.embed(batch)[:, 7].mean((1, 2)))


class ChannelsFirst(nn.LayerNorm):
    """As in ConvNeXt: a LayerNorm over channels that stay on axis 1."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.movedim(1, -1)).movedim(-1, 1)


def test_layers_whose_channels_are_elsewhere() -> None:
    series = nn.Sequential(nn.Conv1d(2, 5, 3), nn.BatchNorm1d(5), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()
    batch = inputs(2, 2, 9)
    series(batch)
    for layer in ("0", "1"):
        expected = series[: int(layer) + 1](batch)[:, 4].mean(1)
        assert torch.allclose(evaluate(Channel(layer, 4), series, batch), expected)
    maps = nn.Sequential(nn.Conv2d(3, 6, 1), ChannelsFirst(6), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert torch.allclose(evaluate(Channel("1", 5), maps, BATCH), maps[:2](BATCH)[:, 5].mean((1, 2)))

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mix = nn.LayerNorm(3), nn.Linear(3, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.mix(self.norm(inputs.movedim(1, -1))).mean((1, 2))

    last: Any = seeded(Last)
    normed = last.norm(BATCH.movedim(1, -1))
    assert torch.allclose(evaluate(Channel("norm", 2), last, BATCH), normed[..., 2].mean((1, 2)))
    assert torch.allclose(evaluate(Neuron("mix", 3, (1, 2)), last, BATCH), last.mix(normed)[:, 1, 2, 3])


def test_gradients_flow_to_the_inputs(net: nn.Module) -> None:
    for objective in (ClassScore(0), Channel("first", 1), Neuron("second", 2), Channel("relu", 1)):
        batch = BATCH.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(evaluate(objective, net, batch).sum(), batch)
        assert bool(gradient.abs().sum((1, 2, 3)).gt(0).all()), objective


def test_no_hook_is_left_behind(net: nn.Module) -> None:
    evaluate(Difference(Channel("first", 0), Channel("second", 0)), net, BATCH)
    for objective in (Channel("first", 99), Difference(Channel("first", 0), Channel("nowhere", 0))):
        with pytest.raises(InputError):
            evaluate(objective, net, BATCH)
    with pytest.raises(ModelOutputError):
        evaluate(Channel("first", 0), net, inputs(2, 1, 9, 9))
    assert not any(module._forward_hooks for module in net.modules())


def test_a_module_under_two_names() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 3)
            self.same = self.first

        def forward(self, inputs: Tensor) -> Tensor:
            return self.same(inputs)

    two: Any = seeded(Two)
    batch = inputs(2, 4)
    for name in ("first", "same"):
        assert torch.equal(evaluate(Channel(name, 1), two, batch), two(batch)[:, 1])


class Odd(nn.Module):
    """A model that returns what it is told to."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result, self.pair, self.layer = result, Pair(), nn.Linear(4, 4)

    def forward(self, inputs: Tensor) -> Any:
        self.pair(inputs)
        inputs = self.layer(self.layer(inputs))
        return self.result(inputs)


class Pair(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, inputs


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Channel("secnd", 0), "Unknown layer 'secnd'. Did you mean 'second'"),
        (Channel("", 0), "Unknown layer ''"),
        (Channel("second", 5), "There is no unit 5 in layer 'second': it has 5 units, numbered from 0"),
        (Channel("second", -1), "There is no unit -1"),
        (ClassScore(6), "There is no class 6: expected an integer from 0 to 5."),
        (Neuron("second", 0, (5, 0)), r"no position [5, 0]: expected one within [5, 3]"),
        (Neuron("second", 0, (0, -1)), "no position [0, -1]"),
        (Neuron("second", 0, (0,)), "no position [0]"),
        (Neuron("linear", 0, (0,)), "no position [0]: expected one within []"),
        (Channel("unused", 0), "the model does not call it"),
        (Direction("second", torch.ones(4)), "expected [5]"),
        (lambda model, batch: model(batch), "The objective returned [2, 6]: expected one number for each of 2 inputs"),
        (lambda model, batch: 3.0, "returned float"),
        (lambda model, batch: model(batch).argmax(1), "The objective returned [2]"),
    ],
)
def test_units_that_there_are_not(net: nn.Module, objective: ObjectiveLike, message: str) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(objective, net, BATCH)
    assert message in str(caught.value)


def test_layers_that_cannot_be_read() -> None:
    model, batch = seeded(lambda: Odd(lambda scores: scores)), inputs(2, 4)
    with pytest.raises(InputError, match="'layer' is called more than once"):
        evaluate(Channel("layer", 0), model, batch)
    with pytest.raises(InputError, match="'pair' does not return one tensor"):
        evaluate(Channel("pair", 0), model, batch)


def fail(scores: Tensor) -> Tensor:
    raise RuntimeError("one\ntwo")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda scores: {"logits": scores}, "The model returned dict"),
        (lambda scores: scores[0], r"The model returned \[4\]"),
        (lambda scores: scores[:1], r"The model returned \[1, 4\]"),
        (fail, "cannot be run on a batch .* one two"),
    ],
)
def test_models_that_return_no_scores(result: Any, message: str) -> None:
    with pytest.raises(ModelOutputError, match=message):
        evaluate(ClassScore(0), seeded(lambda: Odd(result)), inputs(2, 4))


def test_callables_get_the_model_and_the_batch(net: nn.Module) -> None:
    seen: list[Any] = []

    def objective(model: nn.Module, batch: Tensor) -> Tensor:
        seen.extend((model, batch))
        return -model(batch)[:, 0]

    assert torch.equal(evaluate(objective, net, BATCH), -net(BATCH)[:, 0])
    assert seen[0] is net and seen[1] is BATCH
    assert "objective" in describe_objective(objective)


def test_objectives_of_the_users_own(net: nn.Module) -> None:
    class Spread(Objective):
        layers = ("second",)

        def read(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
            return outputs["second"].flatten(1).std(1) + scores[:, 0]

        def spec(self) -> str:
            return "spread"

    assert evaluate(Spread(), net, BATCH).shape == (2,)
    assert describe_objective(Spread()) == "spread"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class:3", ClassScore(3)),
        ("3", ClassScore(3)),
        (" class:Ring ", ClassScore(0)),
        ("ring", ClassScore(0)),
        ("class: star - five points", ClassScore(1)),
        ("b: side", ClassScore(2)),
        ("layer4.1:12", Channel("layer4.1", 12)),
        ("0:12", Channel("0", 12)),
        ("layer4:7@3,14", Neuron("layer4", 7, (3, 14))),
        ("layer4:7@5", Neuron("layer4", 7, (5,))),
        ("layer4:7@center", Neuron("layer4", 7)),
        ("ring - layer4:7@center", Difference(ClassScore(0), Neuron("layer4", 7))),
        ("class:1 - class:ring", Difference(ClassScore(1), ClassScore(0))),
    ],
)
def test_texts(text: str, expected: Objective) -> None:
    assert parse_objective(text, NAMES) == expected
    assert parse_objective(expected.spec(), NAMES) == expected
    assert parse_objective(expected.spec()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Unknown class ''"),
        ("rng", "Unknown class 'rng'. Did you mean 'ring'"),
        ("class:9", "There is no class 9: the model has 5"),
        ("crane", "not unique: use one of the numbers [3, 4]"),
        ("layer4:x", "Cannot read the unit 'layer4:x': expected class:NAME, LAYER:CHANNEL"),
        ("layer4:-1", "Cannot read the unit"),
        ("layer4:7@", "Cannot read the unit"),
        ("layer4:7@1,", "Cannot read the unit"),
        ("layer4:7@1,2,middle", "Cannot read the unit"),
        ("layer4:9999999999", "Cannot read the unit"),
        ("ring - ", "Unknown class ''"),
        ("1 - 2 - 3", "Cannot read the unit '1 - 2 - 3'"),
    ],
)
def test_texts_that_name_nothing(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_objective(text, NAMES, 5)
    assert message in str(caught.value)


def test_names_where_none_are_known() -> None:
    with pytest.raises(
        InputError, match=r"no class 'ring': the class names are not known, so use a number.*LAYER:CHANNEL"
    ):
        parse_objective("class:ring")
    with pytest.raises(InputError, match="There is no class 7: the model has 7"):
        parse_objective("7", (), 7)
    assert parse_objective("123456") == ClassScore(123456)
    with pytest.raises(UnknownNameError):
        parse_objective("ring", ("a", "b"))


def test_nested_differences_do_not_pass_for_others() -> None:
    nested = Difference(ClassScore(1), Difference(ClassScore(2), ClassScore(3)))
    assert nested.spec() == "class:1 - (class:2 - class:3)"
    with pytest.raises(SpadeError):
        parse_objective(nested.spec())
