"""Random weights in the last layer: which layer that is, how they are drawn, and that they are put back."""

import copy

import pytest
import torch
from references.networks import Pooled
from references.soundness import ROW, SAMPLE, UNKNOWN_CLASS, check, cosine, fake, gradient, made, rows, saying
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from spadelens import attribute
from spadelens.attribution.running import Question
from spadelens.attribution.soundness import check_soundness, find_last_layer
from spadelens.errors import AttributionError
from spadelens.methods.gradient_methods import Saliency
from spadelens.methods.method import Attribution


@pytest.fixture
def net() -> nn.Module:
    return made(Pooled)


def random_head(model: nn.Module, name: str, seed: int) -> nn.Module:
    """A copy of `model` with random weights, as many as large, in one layer."""
    drawn = copy.deepcopy(model)
    weight = drawn.get_parameter(f"{name}.weight")
    draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)).to(weight)
    with torch.no_grad():
        weight.copy_(draw * weight.square().mean().sqrt())
    return drawn


def test_similarity_with_random_weights(net: nn.Module) -> None:
    for target in range(4):
        found = attribute(net, SAMPLE, "saliency", target=target)
        other = gradient(random_head(net, "head", 0), SAMPLE[None], target)[0]
        assert found.soundness is not None
        assert abs(cosine(found.attribution, other)) < 0.95
        assert found.soundness.randomized_similarity == pytest.approx(abs(cosine(found.attribution, other)), rel=1e-5)


def test_a_small_head_that_is_drawn_alike_by_chance() -> None:
    num_alike = 0
    for seed in range(40):
        model = made(lambda: nn.Sequential(nn.Linear(6, 2), nn.Linear(2, 2)), seed)
        plain = gradient(model, ROW[None], 0)
        similar = [abs(cosine(plain, gradient(random_head(model, "1", draw), ROW[None], 0))) for draw in range(5)]
        first = next((value for value in similar if value <= 0.95), None)
        num_alike += similar[0] > 0.95
        assert check(model, "saliency", ROW, 0).randomized_similarity == pytest.approx(
            min(similar) if first is None else first, rel=1e-4
        )
        assert check(model, "saliency", ROW, 0).is_sound  # a gradient is a gradient, like any head or not
    assert 2 < num_alike < 20


def test_random_weights_do_not_depend_on_the_state_of_the_world(net: nn.Module) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(check(net, "saliency"))
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0] == found[1]


class Failing(Exception):
    """Not caught by what runs methods, nor by what checks them."""


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_weights_are_swapped_back(error: type[BaseException] | None) -> None:
    model = made(Pooled).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {name: (id(value), value.data_ptr(), value.clone()) for name, value in model.named_parameters()}
    calls = 0

    def say(inner: nn.Module, sample: Tensor, target: int) -> Attribution:
        nonlocal calls
        calls += 1
        if calls > 1:
            head = next(value for name, value in inner.named_parameters() if name.endswith("head.weight"))
            assert not torch.equal(head, before["head.weight"][2])
            if error is not None:
                raise error
        return Attribution(gradient(inner, sample, target))

    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            check(model, fake(say))
    else:
        found = check(model, fake(say))
        assert (found.randomized_similarity is None) == (error is not None)
    assert calls > 1
    for name, value in model.named_parameters():
        identity, pointer, content = before[name]
        assert (id(value), value.data_ptr()) == (identity, pointer)
        assert torch.equal(value, content)
        assert value.stride() == content.stride()


def test_a_method_that_has_no_answer_for_random_weights_only(net: nn.Module) -> None:
    weight = net.get_parameter("head.weight").clone()

    def say(model: nn.Module, sample: Tensor, target: int) -> Attribution:
        if not torch.equal(next(iter(model.parameters())), weight):
            raise AttributionError("LIME fails.")
        return Attribution(gradient(model, sample, target))

    found = check(net, fake(say))
    assert found.randomized_similarity is None
    assert found.is_sound
    assert found.unchecked == (f"{UNKNOWN_CLASS}with random weights in the last layer, the method fails. LIME fails.",)


def test_a_map_that_random_weights_leave_nothing_of(net: nn.Module) -> None:
    weight = net.get_parameter("head.weight").clone()

    def say(model: nn.Module, sample: Tensor, target: int) -> Attribution:
        return Attribution(sample.detach() * torch.equal(next(iter(model.parameters())), weight))

    found = check(net, fake(say))
    assert found.randomized_similarity is None
    assert found.is_sound
    assert found.unchecked == (
        f"{UNKNOWN_CLASS}with random weights in the last layer, at least one map is zero everywhere, or both have "
        "only one nonzero value.",
    )


def test_random_weights_that_overflow() -> None:
    model = made(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))).half()
    with torch.no_grad():
        model[0].weight.mul_(1e4)  # type: ignore[index,union-attr,operator]
        model[2].weight.zero_()  # type: ignore[index,union-attr,operator]
        model[2].weight[0, 0] = 6e4  # type: ignore[index,union-attr,operator]
    model[0].weight.data[0] = 0  # type: ignore[index,union-attr,operator]
    assert find_last_layer(model, ROW.half()) == "2"
    found = check(model, fake(saying(values=torch.arange(6.0))), ROW)
    assert found.randomized_similarity is None
    assert "not finite" in found.unchecked[0]


class Attending(nn.Module):
    """Ends in attention, whose projections are no modules that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.first(tokens)
        return self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)


TOKENS = SAMPLE.flatten()[:35].view(7, 5)


def test_the_last_layer_in_the_order_of_use(net: nn.Module) -> None:
    assert find_last_layer(net, SAMPLE) == "head"


def test_a_convolution_as_head() -> None:
    model = made(lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 2), nn.Flatten(2)))
    whole = nn.Sequential(model, Mean())
    assert find_last_layer(whole, SAMPLE) == "0.2"
    assert check(whole, "saliency").is_sound


class Mean(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.mean(2)


def test_attention_as_head() -> None:
    model = made(Attending)
    assert find_last_layer(model, TOKENS) == "attention.out_proj"
    found = check(model, "saliency", TOKENS)
    assert found.is_sound
    assert found.randomized_similarity is not None


def test_projections_into_queries_keys_and_values() -> None:
    model = made(Attending)
    parametrizations.weight_norm(model.attention.out_proj)  # type: ignore[arg-type,union-attr]
    assert find_last_layer(model, TOKENS) == "attention.in_proj"
    before = model.attention.in_proj_weight.clone()  # type: ignore[union-attr,operator]
    found = check(model, "saliency", TOKENS)
    assert found.randomized_similarity is not None
    assert found.is_sound
    assert torch.equal(model.attention.in_proj_weight, before)  # type: ignore[union-attr,arg-type]


def test_a_head_that_cannot_be_replaced(net: nn.Module) -> None:
    parametrizations.weight_norm(net.head)  # type: ignore[arg-type]
    assert find_last_layer(net, SAMPLE) == "second"
    assert check(net, "saliency").randomized_similarity is not None


def test_a_head_that_is_an_embedding_too() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.mix, self.head = nn.Embedding(4, 6), nn.Linear(6, 6), nn.Linear(6, 4)
            self.head.weight = self.words.weight

        def forward(self, row: Tensor) -> Tensor:
            return self.head(torch.tanh(self.mix(row)))

    model = made(Tied)
    assert find_last_layer(model, ROW) == "mix"
    assert check(model, "saliency", ROW).randomized_similarity is not None


def test_no_layer_at_all() -> None:
    class Plain(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels.square().mean((2, 3))

    assert find_last_layer(Plain(), SAMPLE) is None
    found = check(Plain(), "saliency")
    assert found.randomized_similarity is None
    assert found.is_sound
    assert found.unchecked == (f"{UNKNOWN_CLASS}no layer can be given random weights.",)


def test_tied_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.head.weight = self.first.weight

        def forward(self, row: Tensor) -> Tensor:
            return self.head(torch.tanh(self.second(torch.tanh(self.first(row)))))

    model = made(Tied)
    assert find_last_layer(model, ROW) == "second"  # that of the head is used before it, too
    assert check(model, "saliency", ROW).is_sound
    assert model.head.weight is model.first.weight  # type: ignore[union-attr]


class Aside(nn.Module):
    """Scores each class by a layer of its own, and last of all looks at something that no score depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 5)
        self.classes = nn.ModuleList(nn.Linear(5, 1) for _ in range(3))
        self.aside = nn.Linear(5, 2)

    def forward(self, row: Tensor) -> Tensor:
        hidden = torch.tanh(self.body(row))
        scores = torch.cat([layer(hidden) for layer in self.classes], 1)
        self.aside(hidden)
        return scores


def test_layers_that_the_scores_do_not_depend_on() -> None:
    model = made(Aside)
    assert find_last_layer(model, ROW) == "classes.2"
    assert [find_last_layer(model, ROW, target) for target in range(3)] == ["classes.0", "classes.1", "classes.2"]
    assert check(model, "saliency", ROW, 2).randomized_similarity is not None
    found = Saliency().attribute(model, ROW[None].clone().requires_grad_(), 0)
    alone = Attribution(found.values[0])
    given = check_soundness(Saliency(), model, Question(ROW, 0, "row"), alone, "classes.2")
    assert given.is_sound
    assert given.unchecked == (f"{UNKNOWN_CLASS}with random weights in the last layer, the score stays the same.",)
    assert (
        check_soundness(Saliency(), model, Question(ROW, 0, "row"), alone, "classes.0").randomized_similarity
        is not None
    )


@pytest.mark.parametrize("value", [0.5, 0.0])
def test_heads_whose_weights_are_all_the_same(value: float) -> None:
    model = rows(nn.Tanh())
    nn.init.constant_(model[2].weight, value)  # type: ignore[index,union-attr,arg-type]
    assert find_last_layer(model, ROW) == "2"
    found = check(model, fake(lambda inner, sample, target: Attribution(gradient(inner, sample, target) + 1e-9)), ROW)
    assert found.is_sound
    assert found.randomized_similarity is not None
