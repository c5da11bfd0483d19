"""Images found by gradient ascent: where they lead, and what is said of them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from references.networks import Normalized, seeded
from references.visualization import COLOR, GREY, QUICK, same, snapshot
from torch import Tensor, nn

from spadelens import Trace, load_model
from spadelens.errors import UnknownNameError, VisualizationError
from spadelens.photos import Preprocessing
from spadelens.visualization.ascent import Ascent, GradientAscent
from spadelens.visualization.objectives import ClassScore, Objective
from spadelens.visualization.parameterizations import Direct, Fourier, Maco
from spadelens.visualization.transformations import NO_TRANSFORMATIONS, Transformations
from spadelens.visualization.visualization import Visualization, respond, visualize


def linear(weight: Tensor) -> nn.Module:
    """The score of class 0 is the product of the input and `weight`."""
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2, bias=False)).to(weight.dtype)
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([weight.flatten(), -weight.flatten()]))
    return model.eval()


def random_weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def start_of(ascent: Ascent, preprocessing: Preprocessing | tuple[int, ...]) -> Tensor:
    return GradientAscent([nn.Linear(1, 1)], ClassScore(0), preprocessing, ascent).images()[0].detach()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_linear_model_leads_to_black_and_white(channels: int) -> None:
    weight = random_weight(1, 5, 7).repeat(channels, 1, 1)
    found = visualize(linear(weight), "0", (channels, 5, 7), Ascent(Fourier(rate=0.5), NO_TRANSFORMATIONS, 400))
    assert torch.allclose(found.images[0].double(), (weight > 0).double(), atol=0.05)
    assert float(found.curve[-1, 0]) == pytest.approx(float(weight.clamp_min(0).sum()), rel=0.02)


def test_a_contrast_leads_to_what_speaks_for_one_class_and_not_the_other() -> None:
    weights = random_weight(3, 35)  # of three classes
    model: Any = nn.Sequential(nn.Flatten(), nn.Linear(35, 3, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(weights)
    ascent = Ascent(Fourier(rate=0.5), NO_TRANSFORMATIONS, 400)
    found = visualize(model, 2, (1, 5, 7), ascent, versus=0)
    better = (weights[2] - weights[0]).view(1, 5, 7)
    clear = better.abs() > 0.2  # elsewhere the ascent is slow
    assert torch.allclose(found.images[0].double()[clear], (better > 0).double()[clear], atol=0.05)
    assert float(found.curve[-1, 0]) == pytest.approx(float(better.clamp_min(0).sum()), rel=0.02)
    assert found.objective == "class:2 - class:0"
    inputs = random_weight(4, 1, 5, 7)
    expected = (inputs * better).sum((1, 2, 3))
    assert torch.allclose(respond(model, 2, inputs, versus=0), expected)
    assert torch.allclose(respond(model, "class:2", inputs, versus=0), expected)


@pytest.mark.parametrize("number", [1, np.int64(1), torch.tensor(1), "class:1", "1"])
def test_a_class_is_a_number_of_any_kind(number: Any) -> None:
    model, inputs = linear(random_weight(1, 2, 3)), random_weight(4, 1, 2, 3)
    assert torch.equal(respond(model, number, inputs), model(inputs)[:, 1].detach())
    found = visualize(model, number, (1, 2, 3), Ascent(Direct(), NO_TRANSFORMATIONS, 1))
    assert found.objective == "class:1"


def test_maco_aligns_its_phases_with_those_of_a_linear_model() -> None:
    weight = random_weight(1, 8, 9)
    found = visualize(linear(weight), "0", (1, 8, 9), Ascent(Maco(), NO_TRANSFORMATIONS, 200))
    aligned = Maco().image(torch.from_numpy(np.angle(np.fft.rfft2(weight.numpy())))[None], (1, 8, 9))
    start = start_of(Ascent(Maco()), (1, 8, 9))
    score = (weight * torch.stack([found.images[0].double(), aligned[0], start[0].double()])).sum((1, 2, 3))
    assert float(score[1] - score[2]) > 1
    assert float(score[0]) > float(score[1]) - 0.02 * float(score[1] - score[2])


def test_direct_leads_to_the_top_of_a_hill() -> None:
    top = random_weight(6)

    def hill(_: nn.Module, batch: Tensor) -> Tensor:
        return -(batch - top).square().sum(1)

    found = visualize(nn.Linear(6, 2).double(), hill, [6], Ascent(Direct(rate=0.1), num_steps=200, num_images=2))
    assert torch.allclose(found.images.double(), top.expand(2, 6), atol=1e-3)
    assert found.opacity.shape == (2, 6)


@pytest.mark.parametrize("shape", [(3, 4, 5), (6, 8), (7,)])
def test_direct_takes_inputs_of_any_shape(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Flatten(), seeded(lambda: nn.Linear(int(np.prod(shape)), 3)))
    found = visualize(model, "2", shape, Ascent("direct", num_steps=30, num_images=2))
    assert found.images.shape == found.opacity.shape == (2, *shape)
    assert bool((found.curve[-1] > found.curve[0] + 0.1).all())


def test_direct_inputs_are_not_normalized() -> None:
    weight = random_weight(3, 10, 13)
    found = visualize(linear(weight), "0", COLOR, Ascent("direct", num_steps=5))
    assert float(found.curve[0, 0]) == pytest.approx(float((start_of(Ascent("direct"), COLOR)[0] * weight).sum()))


@pytest.mark.parametrize(
    ("parameterization", "unit"),
    [
        ("fourier", "class:9"),
        ("fourier", "blocks.4.norm2:7"),
        ("fourier", "blocks.2.norm2:6@center"),
        ("fourier", "class:1 - class:2"),
        ("maco", "class:9"),
        ("maco", "blocks.4.norm2:7"),
    ],
)
def test_the_unit_responds_more_than_at_the_start(parameterization: str, unit: str) -> None:
    loaded = load_model("demo", "cpu")
    ascent = Ascent(parameterization, num_steps=40)
    found = visualize(loaded.model, unit, loaded.preprocessing, ascent)
    images = torch.cat([found.images, start_of(ascent, loaded.preprocessing)])
    after, before = respond(loaded.model, unit, images, loaded.preprocessing).tolist()
    assert after > before + 0.5 * abs(before)
    assert float(found.curve[-10:].mean()) > float(found.curve[0].mean())


def test_the_model_sees_what_is_normalized() -> None:
    seen: list[Tensor] = []

    def objective(_: nn.Module, batch: Tensor) -> Tensor:
        seen.append(batch.detach().clone())
        return batch.sum((1, 2, 3))

    ascent = Ascent(transformations=NO_TRANSFORMATIONS, num_steps=1)
    visualize(nn.Linear(1, 1), objective, COLOR, ascent)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (COLOR.mean, COLOR.std))
    assert torch.allclose(seen[0], (start_of(ascent, COLOR) - mean) / std, atol=1e-5)
    visualize(nn.Linear(1, 1), objective, (3, 10, 13), ascent)
    assert torch.allclose(seen[1], start_of(ascent, COLOR), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preprocessing", [GREY, COLOR])
def test_types_and_sizes(dtype: torch.dtype, preprocessing: Preprocessing) -> None:
    channels = len(preprocessing.mean)
    model = seeded(lambda: Normalized(channels)).to(dtype)
    found = visualize(model, "second:1", preprocessing, Ascent("maco", num_steps=3, num_images=2))
    assert found.images.shape == (2, channels, *preprocessing.crop_px)
    assert found.images.dtype == found.opacity.dtype == torch.float32
    assert found.opacity.shape == (2, *preprocessing.crop_px)
    assert found.curve.shape == (3, 2)
    assert found.curve.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert 0 <= float(found.images.min()) < float(found.images.max()) <= 1
    assert float(found.opacity.amax()) == 1


def test_a_model_of_tokens() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.head = nn.Conv2d(3, 8, 3, stride=3), nn.LayerNorm(8), nn.Linear(8, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.norm(self.embed(inputs).flatten(2).transpose(1, 2))).mean(1)

    found = visualize(seeded(Tokens), "norm:5@7", COLOR, Ascent(num_steps=30))
    assert float(found.curve[-5:].mean()) > float(found.curve[:5].mean()) + 0.5


def test_a_trace_gives_what_its_copy_gives(double: Any, trace: Trace) -> None:
    ascent = Ascent("maco", num_steps=6, num_images=2)
    on_trace, on_copy, on_dense = (
        visualize(each, "second:2", COLOR, ascent) for each in (trace, trace.sparse_copy(), double)
    )
    assert torch.equal(on_trace.images, on_copy.images)
    assert torch.equal(on_trace.curve, on_copy.curve)
    assert not torch.allclose(on_trace.curve, on_dense.curve)


def check_equal(first: Visualization, second: Visualization, tolerance: float = 1e-6) -> None:
    assert torch.allclose(first.images, second.images, atol=tolerance)
    assert torch.allclose(first.curve, second.curve, atol=tolerance)
    assert torch.allclose(first.opacity, second.opacity, atol=tolerance)


@pytest.mark.parametrize("parameterization", ["fourier", "maco"])
def test_several_models_at_once_get_what_each_gets_alone(parameterization: str, double: Any, trace: Trace) -> None:
    ascent = Ascent(parameterization, num_steps=8, num_images=2, seed=5)
    models = [double, trace, seeded(Normalized, 1).double(), double]
    together = visualize(models, "second:2", COLOR, ascent)
    for model, found in zip(models, together, strict=True):
        check_equal(found, visualize(model, "second:2", COLOR, ascent))
    check_equal(together[0], together[3])


def test_models_of_different_types_at_once(model: Any, double: Any) -> None:
    first, second = visualize([model, double], "second:2", COLOR, QUICK)
    check_equal(first, second, 1e-4)


@pytest.mark.parametrize("parameterization", ["fourier", "maco"])
def test_an_image_does_not_depend_on_how_many_there_are(parameterization: str, double: Any) -> None:
    few, many = (Ascent(parameterization, num_steps=8, num_images=count, seed=3) for count in (1, 3))
    alone, every = (visualize(double, "second:2", COLOR, ascent) for ascent in (few, many))
    assert torch.allclose(alone.images[0], every.images[0], atol=1e-6)
    assert torch.allclose(alone.curve[:, 0], every.curve[:, 0])
    assert not torch.allclose(every.images[0], every.images[1], atol=0.05)
    again = visualize(double, "second:2", COLOR, many)
    assert torch.equal(again.images, every.images)
    other = visualize(double, "second:2", COLOR, Ascent(parameterization, num_steps=8, num_images=3, seed=4))
    assert not torch.allclose(other.images, every.images, atol=0.05)


def test_the_curve_is_the_mean_over_the_copies() -> None:
    seen: list[Tensor] = []

    def objective(_: nn.Module, batch: Tensor) -> Tensor:
        values = batch.square().sum((1, 2, 3))
        seen.append(values.detach())
        return values

    ascent = Ascent(transformations=Transformations(num_copies=3), num_images=2, num_steps=2)
    found = visualize(nn.Linear(1, 1), objective, COLOR, ascent)
    assert [len(values) for values in seen] == [6, 6]
    assert torch.allclose(found.curve, torch.stack([values.view(2, 3).mean(1) for values in seen]))


def test_opacity_is_where_the_objective_depends_on_the_image(double: Any) -> None:
    def left(_: nn.Module, batch: Tensor) -> Tensor:
        return batch[..., :4].square().sum((1, 2, 3))

    found = visualize(double, left, COLOR, Ascent(transformations=NO_TRANSFORMATIONS, num_steps=3))
    assert bool((found.opacity[0, :, :4] > 0).all())
    assert float(found.opacity[0, :, 6:].max()) < 1e-6
    assert float(found.opacity.max()) == 1
    slopes: list[Tensor] = []

    def linear_part(_: nn.Module, batch: Tensor) -> Tensor:
        slopes.append(torch.linspace(1, 2, 13, dtype=torch.float64))
        return (batch * slopes[-1]).sum((1, 2, 3))

    found = visualize(double, linear_part, (2, 10, 13), Ascent(transformations=NO_TRANSFORMATIONS, num_steps=3))
    expected = (slopes[0] / np.quantile(np.tile(slopes[0].numpy(), 10), 0.99)).clamp(max=1)
    assert torch.allclose(found.opacity[0].double(), expected.expand(10, 13), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_the_unit_of_the_objective_does_not_matter(scale: float) -> None:
    """A probability of a class that is far from likely has slopes far below those of a score."""
    plain, scaled = (
        visualize(nn.Linear(1, 1), lambda _, batch, by=by: by * batch.sin().sum((1, 2, 3)), COLOR, QUICK).images
        for by in (1.0, scale)
    )
    assert torch.allclose(plain, scaled, atol=1e-3)


def test_models_that_end_in_a_softmax() -> None:
    loaded = load_model("demo", "cpu")
    model = nn.Sequential(loaded.model, nn.Softmax(-1))
    found = visualize(model, "class:4", loaded.preprocessing, Ascent(num_steps=60))
    assert float(found.curve[-10:].mean()) > 0.9


def test_progress(model: nn.Module) -> None:
    calls: list[tuple[str, int, int]] = []
    visualize(model, "class:0", COLOR, QUICK, lambda *call: calls.append(call))
    assert calls == [("visualize", done, 4) for done in range(5)]


def test_what_is_known_of_a_result(double: Any) -> None:
    found = visualize(double, "second:2", COLOR, Ascent("maco", num_steps=3, seed=7))
    assert found.objective == "second:2"
    assert found.settings["parameterization"] == "maco"
    assert found.settings["transformations"]["scale"] == (1.3, 2.5)
    assert (found.settings["num_steps"], found.settings["num_images"], found.settings["seed"]) == (3, 1, 7)


def test_large_seeds(model: nn.Module) -> None:
    images = [visualize(model, "0", COLOR, Ascent(num_steps=2, seed=seed)).images for seed in (10**30, 10**30 + 1)]
    assert not torch.equal(*images)


class Mean(Objective):
    """The mean of the input as the model sees it."""

    def read(self, scores: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        return scores[:, 0] - scores[:, 1]

    def spec(self) -> str:
        return "mean"


def test_respond(double: Any, trace: Trace) -> None:
    double.train()
    before = snapshot(double)
    images = torch.rand(3, 3, 10, 13, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (COLOR.mean, COLOR.std))
    inputs = ((images - mean) / std).double()
    for each, net in ((double, seeded(Normalized).double()), (trace, trace.sparse_copy().eval())):
        scores = net(inputs).detach()
        assert torch.allclose(respond(each, "class:3", images, COLOR), scores[:, 3], atol=1e-5)
        assert torch.allclose(respond(each, "3", inputs), scores[:, 3])
        assert torch.allclose(respond(each, Mean(), inputs.float()), scores[:, 0] - scores[:, 1], atol=1e-5)
    assert same(snapshot(double), before)
    kept = inputs.clone()
    respond(nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(2).double()), "0", inputs)
    assert torch.equal(inputs, kept)
    with pytest.raises(VisualizationError, match="not finite"):
        respond(double, "0", inputs * float("nan"))
    with pytest.raises(UnknownNameError):
        respond(double, "secnd:1", inputs)
