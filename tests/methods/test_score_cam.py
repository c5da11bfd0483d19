"""Score-CAM: against a restatement channel by channel, its choice of a layer, and that nothing is left behind."""

import pytest
import torch
from references.networks import seeded
from references.score_cam import score_cam as reference
from torch import Tensor, nn

from spadelens import attribute, extract_trace
from spadelens.errors import AttributionError, InputError, ModelOutputError, UnknownNameError
from spadelens.methods.score_cam import ScoreCam, score_cam, score_cams


class Small(nn.Module):
    """Convolutions with an operation in place after each, a pool, and a classifier."""

    def __init__(self, ends_in_softmax: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(5, 7, 3, padding=1)
        self.last = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(7, 4)
        self.ends_in_softmax = ends_in_softmax

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.last(self.second(self.relu(self.first(inputs))))
        scores = self.linear(self.dropout(self.pool(features).flatten(1)))
        return scores.softmax(1) if self.ends_in_softmax else scores


def small(seed: int = 0, **options: bool) -> Small:
    model = seeded(lambda: Small(**options), seed).double()
    with torch.no_grad():
        model.linear.weight *= 8
    return model


SAMPLE = torch.randn(3, 11, 14, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_it_is_the_sum_that_the_paper_defines(seed: int, batch_size: int) -> None:
    model = small(seed)
    channels = model.second(model.relu(model.first(SAMPLE[None])))[0].relu().detach()
    every = score_cams(model, SAMPLE, [0, 1, 2, 3], batch_size=batch_size)
    for target in range(4):
        expected = reference(model, channels, SAMPLE, target)
        torch.testing.assert_close(every[target], expected)
        torch.testing.assert_close(score_cam(model, SAMPLE, target, "last", batch_size), expected)
    assert every.any()


def test_another_layer_is_taken_as_it_was_before_the_next_module_worked_on_it() -> None:
    model = small()
    channels = model.first(SAMPLE[None])[0].detach()
    assert (channels < 0).any()
    torch.testing.assert_close(score_cam(model, SAMPLE, 2, "first"), reference(model, channels, SAMPLE, 2))


def test_constant_channels_count_nothing() -> None:
    model = small()
    with torch.no_grad():
        model.second.weight[2:5] = 0
        model.second.bias[2:5] = torch.tensor([0.3, 40.0, 0.0])
    channels = model.second(model.relu(model.first(SAMPLE[None])))[0].relu().detach()
    torch.testing.assert_close(score_cam(model, SAMPLE, 1), reference(model, channels, SAMPLE, 1))
    with torch.no_grad():
        model.second.weight.zero_()
    assert not score_cam(model, SAMPLE, 1).any()


def test_a_channel_that_is_constant_once_it_is_scaled_down_counts_nothing() -> None:
    class Enlarging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Upsample(size=(8, 8), mode="nearest")
            self.board = nn.Conv2d(1, 2, 1)

        def forward(self, inputs: Tensor) -> Tensor:
            rows = torch.arange(8).view(8, 1) % 2  # 2 x 2 places are averaged of 8 x 8 at the size 4 x 4
            return self.board(self.up(inputs) * 0 + rows).mean((2, 3))

    model = Enlarging().eval()
    found = score_cam(model, torch.ones(1, 4, 4), 0, "board")
    assert not found.any()


def test_probabilities_are_not_put_through_another_softmax() -> None:
    torch.testing.assert_close(score_cam(small(ends_in_softmax=True), SAMPLE, 2), score_cam(small(), SAMPLE, 2))


def test_on_a_trace_it_is_that_of_the_sparse_model() -> None:
    model = small()
    trace = extract_trace(model, SAMPLE, num_views=2, schedule=0.5)
    torch.testing.assert_close(score_cam(trace, SAMPLE, 1), score_cam(trace.sparse_copy(), SAMPLE, 1))
    assert not torch.allclose(score_cam(trace, SAMPLE, 1), score_cam(model, SAMPLE, 1))


def test_no_more_samples_at_a_time_than_asked_for() -> None:
    model, sizes = small(), []
    handle = model.first.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    score_cam(model, SAMPLE, 0, batch_size=3)
    handle.remove()
    assert max(sizes) == 3
    assert sum(sizes) == 1 + 1 + 7  # the sample, the baseline, one for each channel


def test_nothing_is_left_behind() -> None:
    model = small().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sample = SAMPLE.clone()
    score_cam(model, sample, 0)
    with pytest.raises(InputError):
        score_cam(model, sample, 4)
    model.pool.register_forward_hook(lambda module, inputs, output: output * float("nan"))
    with pytest.raises(ModelOutputError):
        score_cam(model, sample, 0)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(sample, SAMPLE)
    assert sum(len(module._forward_hooks) for module in model.modules()) == 1
    assert all(parameter.grad is None for parameter in model.parameters())


class Shared(nn.Module):
    """Calls one module twice; returns its features in a tuple from another."""

    class Pair(nn.Module):
        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            return inputs, inputs

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1)
        self.pair = self.Pair()
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.pair(self.twice(self.twice(inputs)))[0].mean((2, 3))


def test_the_default_layer_is_the_last_call_of_a_module_that_is_called_twice() -> None:
    torch.manual_seed(0)
    model = Shared().double().eval()
    channels = model.twice(model.twice(SAMPLE[None]))[0].detach()
    torch.testing.assert_close(score_cam(model, SAMPLE, 1), reference(model, channels, SAMPLE, 1))


@pytest.mark.parametrize(
    ("layer", "message"),
    [("twice", "called 2 times"), ("unused", "called 0 times"), ("pair", "returns a tuple"), ("twise", "Did you mean")],
)
def test_layers_that_have_no_one_map_are_refused(layer: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_cam(Shared().double(), SAMPLE, 0, layer)


def test_what_cannot_be_used_is_refused() -> None:
    model = small()
    with pytest.raises(InputError, match=r"returns the shape \[1, 7, 1, 1\]"):
        score_cam(model, SAMPLE, 0, "pool")
    with pytest.raises(UnknownNameError):
        score_cam(model, SAMPLE, 0, "")
    with pytest.raises(InputError, match="class 4"):
        score_cam(model, SAMPLE, 4)
    with pytest.raises(InputError, match="batch_size"):
        score_cam(model, SAMPLE, 0, batch_size=0)
    with pytest.raises(InputError, match=r"\[C, H, W\]"):
        score_cam(model, SAMPLE[0], 0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(AttributionError, match="convolutional models"):
        score_cam(linear, torch.ones(3, 2, 2), 0)


def test_features_that_are_not_finite_are_refused() -> None:
    class Saturating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.conv(inputs * torch.finfo(torch.float32).max).sign().mean((2, 3))

    model = Saturating()
    with torch.no_grad():
        model.conv.weight.fill_(1.0)
    with pytest.raises(AttributionError, match="not finite"):
        score_cam(model, torch.rand(3, 6, 7), 0)


def test_as_a_method_it_is_the_same_map_on_every_channel() -> None:
    model = small()
    for target in (None, 2):
        found = attribute(model, SAMPLE, "score_cam:batch_size=3", target=target)
        expected = score_cam(model, SAMPLE, found.target)
        torch.testing.assert_close(found.attribution, expected.expand(3, -1, -1))
    trace = extract_trace(model, SAMPLE, num_views=2, schedule=0.5)
    torch.testing.assert_close(
        attribute(trace, SAMPLE, ScoreCam(), target=1).attribution[0], score_cam(trace, SAMPLE, 1)
    )


def test_as_a_method_it_is_for_photos() -> None:
    for shape in ((6,), (3, 2), (1, 2, 3, 1)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
        with pytest.raises(AttributionError, match=r"needs photos \[C, H, W\]"):
            attribute(model, torch.ones(shape), "score_cam", kind="text" if len(shape) == 2 else None)


class Tokens(nn.Module):
    """Patches by a convolution, features last from there on, and a classifier of their mean."""

    def __init__(self, is_map: bool, has_convolution_after: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 2, stride=2)
        self.block = nn.Linear(24, 24)
        self.back = nn.Conv2d(24, 5, 1) if has_convolution_after else None
        self.classifier = nn.Linear(5 if has_convolution_after else 24, 4)
        self.is_map = is_map

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.patches(inputs).permute(0, 2, 3, 1)
        features = self.block(features if self.is_map else features.flatten(1, 2))
        if self.back is not None:
            return self.classifier(self.back(features.permute(0, 3, 1, 2)).mean((2, 3)))
        return self.classifier(features.flatten(1, -2).mean(1))


@pytest.mark.parametrize("is_map", [True, False])
def test_models_that_go_on_with_tokens_are_refused(is_map: bool) -> None:
    model = Tokens(is_map).double().eval()
    with pytest.raises(AttributionError, match="without attention or tokens after it"):
        score_cam(model, SAMPLE[:, :10, :10], 0)
    assert score_cam(model, SAMPLE[:, :10, :10], 0, "patches").shape == (10, 10)


def test_models_that_come_back_to_maps_are_not() -> None:
    model = Tokens(is_map=True, has_convolution_after=True).double().eval()
    sample = SAMPLE[:, :10, :10]
    channels = model.back(model.block(model.patches(sample[None]).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))[0].detach()
    torch.testing.assert_close(score_cam(model, sample, 0), reference(model, channels, sample, 0))


@pytest.mark.parametrize("pool", [nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(2))])
def test_what_is_left_after_pooling_is_no_list_of_tokens(pool: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), pool, nn.Flatten(1), nn.Linear(5, 3)).double().eval()
    channels = model[:2](SAMPLE[None])[0].detach()
    torch.testing.assert_close(score_cam(model, SAMPLE, 1), reference(model, channels, SAMPLE, 1))
