"""`visualize`: that it climbs to where it should, whatever the model, and leaves the model as it was."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spadelens import Trace, extract_trace, load_model
from spadelens.errors import InputError, ModelOutputError, TraceMismatchError, UnknownNameError, VisualizationError
from spadelens.photos import Preprocessing
from spadelens.visualization import ascent as ascending
from spadelens.visualization.ascent import Ascent, GradientAscent
from spadelens.visualization.objectives import ClassScore, Direction, Objective
from spadelens.visualization.parameterizations import Direct, Fourier, Maco, Parameterization
from spadelens.visualization.transformations import NO_TRANSFORMATIONS, Transformations
from spadelens.visualization.visualization import Visualization, respond, visualize, visualize_all

GREY = Preprocessing((63, 50), (0.4,), (0.25,))
COLOR = Preprocessing((10, 13), (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
QUICK = Ascent(num_steps=4)


class Small(nn.Module):
    """Two convolutions with normalization and dropout, and a classifier; the first activation works in place."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(6, 5)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.second(self.relu(self.norm(self.first(inputs))))
        return self.linear(self.dropout(features.relu().mean((2, 3))))


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


@pytest.fixture
def model() -> Any:
    return seeded(Small)


@pytest.fixture
def double() -> Any:
    return seeded(Small).double()


def make_sample(seed: int = 3) -> Tensor:
    return torch.randn(3, 10, 13, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def trace(double: nn.Module) -> Trace:
    return extract_trace(double, make_sample(), schedule="0.5", num_views=4)


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
    model = seeded(lambda: Small(channels)).to(dtype)
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


def snapshot(model: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()}
    for name, module in model.named_modules():
        state[f"{name} mode"] = module.training
        state[f"{name} hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    for name, parameter in model.named_parameters():
        state[f"{name} parameter"] = (id(parameter), parameter.requires_grad, parameter.grad, parameter.data_ptr())
    return state


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, Tensor) else value == second[key]
        for key, value in first.items()
    )


def test_the_model_is_left_as_it_was(double: Any, trace: Trace) -> None:
    double.train()
    double.norm.eval()
    double.first.weight.requires_grad_(False)
    before, state = snapshot(double), torch.random.get_rng_state()
    expected = visualize(seeded(Small).double(), "second:1", COLOR, QUICK)
    assert torch.equal(visualize(double, "second:1", COLOR, QUICK).images, expected.images)  # without dropout
    visualize(trace, "second:1", COLOR, QUICK)
    with pytest.raises(UnknownNameError):
        visualize(trace, "nowhere:1", COLOR, QUICK)
    with pytest.raises(KeyboardInterrupt):
        visualize(trace, stop, COLOR, QUICK)
    assert same(snapshot(double), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.is_grad_enabled()


def stop(_: nn.Module, batch: Tensor) -> Tensor:
    raise KeyboardInterrupt


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_contexts_without_gradients(model: nn.Module, context: Callable[[], Any]) -> None:
    expected = visualize(model, "class:1", COLOR, QUICK).images
    with context():
        found = visualize(model, "class:1", COLOR, QUICK)
        assert not torch.is_grad_enabled()
    assert torch.equal(found.images, expected)
    assert not found.images.is_inference() and not found.images.requires_grad


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
    models = [double, trace, seeded(Small, 1).double(), double]
    together = visualize_all(models, "second:2", COLOR, ascent)
    for model, found in zip(models, together, strict=True):
        check_equal(found, visualize(model, "second:2", COLOR, ascent))
    check_equal(together[0], together[3])


def test_models_of_different_types_at_once(model: Any, double: Any) -> None:
    first, second = visualize_all([model, double], "second:2", COLOR, QUICK)
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(value: float, model: Any) -> None:
    calls: list[int] = []

    def objective(net: nn.Module, batch: Tensor) -> Tensor:
        calls.append(1)
        return net(batch)[:, 0] + (value if len(calls) == 2 else 0.0)

    with pytest.raises(VisualizationError, match=r"objective.* values that are not finite"):
        visualize(model, objective, COLOR, QUICK)

    def steep(net: nn.Module, batch: Tensor) -> Tensor:
        return (batch * 0).abs().sqrt().sum((1, 2, 3))  # the values are finite, the slopes are not

    with pytest.raises(VisualizationError, match="not finite"):
        visualize(model, steep, COLOR, QUICK)


def dead(model: Any, channel: int) -> Any:
    with torch.no_grad():
        model.first.weight[channel] = 0
        model.first.bias[channel] = -1
        model.norm.bias[channel] = -3
        model.norm.running_mean[channel] = 0
    return model


def test_a_dead_unit_is_refused_and_named(double: Any, trace: Trace) -> None:
    with pytest.raises(VisualizationError, match=r"'relu:2' of the model does not depend on the image"):
        visualize(dead(seeded(Small), 2), "relu:2", COLOR, QUICK)
    with pytest.raises(VisualizationError, match="does not depend"):
        visualize(double, lambda net, batch: net(batch).detach()[:, 0], COLOR, QUICK)
    weights = {name: torch.zeros_like(weight) for name, weight in trace.weights.items()}
    nothing = Trace(double, weights, trace.pruned, trace.report, trace.model_fingerprint)
    with pytest.raises(VisualizationError, match=r"'class:1' of the trace does not depend on the image"):
        visualize_all([double, nothing], "class:1", COLOR, QUICK)


def test_a_dead_unit_is_found_out_early_with_and_without_a_checkpoint(tmp_path: Path) -> None:
    steps: list[int] = []
    for checkpoint in (None, tmp_path / "state.pt"):
        with pytest.raises(VisualizationError):
            visualize_all(
                [dead(seeded(Small), 2)], "relu:2", COLOR, Ascent(num_steps=500),
                lambda _, done, __: steps.append(done), checkpoint,
            )  # fmt: skip
    assert steps == [*range(64)] * 2


def test_progress(model: nn.Module) -> None:
    calls: list[tuple[str, int, int]] = []
    visualize(model, "class:0", COLOR, QUICK, lambda *call: calls.append(call))
    assert calls == [("visualize", done, 4) for done in range(5)]


class Interrupted(Exception):
    pass


def interrupt_at(step: int) -> Callable[[str, int, int], None]:
    def progress(_: str, done: int, __: int) -> None:
        if done == step:
            raise Interrupted

    return progress


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ascending, "_STEPS_PER_CHECKPOINT", 3)


@pytest.mark.parametrize("parameterization", ["fourier", "maco:rate=0.3"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(
    short: None, tmp_path: Path, parameterization: str, double: Any, trace: Trace
) -> None:
    ascent = Ascent(parameterization, num_steps=11, num_images=2)
    models, file = [double, trace], tmp_path / "state.pt"
    whole = visualize_all(models, "second:2", COLOR, ascent)
    steps: list[int] = []
    for step in (5, 7, 10):
        with pytest.raises(Interrupted):
            visualize_all(models, "second:2", COLOR, ascent, interrupt_at(step), file)
        assert list(tmp_path.iterdir()) == [file]
    with torch.inference_mode():
        found = visualize_all(models, "second:2", COLOR, ascent, lambda _, done, __: steps.append(done), file)
    assert steps == [9, 10, 11]
    assert list(tmp_path.iterdir()) == []
    for first, second in zip(whole, found, strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.curve, second.curve)
        assert torch.equal(first.opacity, second.opacity)


class Scaled(Parameterization):
    """A parameterization of the user's own, whose settings have no text."""

    rate = 0.1

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __repr__(self) -> str:
        return f"Scaled({self.scale})"

    def start(self, shape: Any, generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def image(self, parameters: Tensor, shape: Any) -> Tensor:
        return torch.sigmoid(self.scale * parameters)


def leave_checkpoint(file: Path, model: Any, unit: Any = "second:2", ascent: Ascent | None = None) -> None:
    with pytest.raises(Interrupted):
        visualize_all([model], unit, COLOR, ascent or Ascent(num_steps=9), interrupt_at(4), file)
    assert file.exists()


def test_checkpoints_of_other_runs_are_refused_and_stay(short: None, tmp_path: Path, double: Any, trace: Trace) -> None:
    file, ascent = tmp_path / "state.pt", Ascent(num_steps=9)
    leave_checkpoint(file, double)
    before = file.read_bytes()
    others: list[tuple[list[Any], str, Any, Ascent]] = [
        ([trace], "second:2", COLOR, ascent),
        ([double, trace], "second:2", COLOR, ascent),
        ([double], "second:3", COLOR, ascent),
        ([double], "second:2", (3, 10, 13), ascent),
        ([double], "second:2", COLOR, Ascent(num_steps=10)),
        ([double], "second:2", COLOR, Ascent(num_steps=9, seed=1)),
        ([double], "second:2", COLOR, Ascent("fourier:rate=0.06", num_steps=9)),
        ([double], "second:2", COLOR, Ascent(transformations=NO_TRANSFORMATIONS, num_steps=9)),
    ]
    for models, unit, preprocessing, other in others:
        with pytest.raises(InputError, match="belongs to a run with different settings"):
            visualize_all(models, unit, preprocessing, other, None, file)
        assert file.read_bytes() == before
    leave_checkpoint(tmp_path / "a.pt", double, Direction("second", torch.ones(6)))
    with pytest.raises(InputError, match="different settings"):
        visualize_all([double], Direction("second", torch.arange(6.0)), COLOR, ascent, None, tmp_path / "a.pt")
    leave_checkpoint(tmp_path / "b.pt", double, ascent=Ascent(Scaled(1.0), num_steps=9))
    with pytest.raises(InputError, match="different settings"):
        visualize_all([double], "second:2", COLOR, Ascent(Scaled(2.0), num_steps=9), None, tmp_path / "b.pt")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other"])
def test_damaged_checkpoints_are_refused(short: None, tmp_path: Path, damage: str, double: Any) -> None:
    file = tmp_path / "state.pt"
    leave_checkpoint(file, double)
    content = file.read_bytes()
    if damage == "other":
        state = torch.load(file, weights_only=True)
        del state["reliance"]
        torch.save(state, file)
    else:
        file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no checkpoint"}[damage])
    with pytest.raises(InputError, match=r"Cannot resume from .*Delete it to start over"):
        visualize_all([double], "second:2", COLOR, Ascent(num_steps=9), None, file)
    assert file.exists()


def test_callables_have_no_checkpoints(tmp_path: Path, double: Any) -> None:
    file = tmp_path / "state.pt"
    with pytest.raises(InputError, match="Cannot checkpoint the ascent of a callable"):
        visualize_all([double], lambda net, batch: net(batch)[:, 0], COLOR, QUICK, None, file)
    assert not file.exists()


def test_what_is_known_of_a_result(double: Any) -> None:
    found = visualize(double, "second:2", COLOR, Ascent("maco", num_steps=3, seed=7))
    assert found.objective == "second:2"
    assert found.settings["parameterization"] == "maco"
    assert found.settings["transformations"]["scale"] == (1.3, 2.5)
    assert (found.settings["num_steps"], found.settings["num_images"], found.settings["seed"]) == (3, 1, 7)


def test_a_model_that_has_changed_is_refused(double: Any, trace: Trace) -> None:
    with torch.no_grad():
        double.linear.bias += 1
    with pytest.raises(TraceMismatchError):
        visualize(trace, "class:0", COLOR, QUICK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 0}, "num_steps=0"),
        ({"num_images": 0}, "num_images=0"),
        ({"num_steps": 2.5}, "num_steps=2.5"),
        ({"seed": -1}, "seed=-1"),
        ({"parameterization": "macho"}, "Did you mean 'maco'"),
        ({"parameterization": 5}, "Cannot use 5 as a parameterization"),
        ({"transformations": "none"}, "Cannot use 'none' as transformations"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ascent(**settings)


def test_arguments_that_cannot_be_used(model: Any) -> None:
    for models, unit, shape, message in (
        ([], "0", COLOR, "at least one model"),
        (model, "0", COLOR, "expected a sequence"),
        (["model"], "0", COLOR, "Cannot visualize a unit of a str"),
        ([model], 7, COLOR, "Cannot maximize 7"),
        ([model], "second:99", COLOR, "There is no unit 99"),
        ([model], "0", (3, 0, 5), "expected sizes above zero"),
        ([model], "0", (), "expected sizes above zero"),
        ([model], "0", 224, "expected sizes above zero"),
        ([model], "0", (3, 5), "Use 'direct' for other inputs"),
    ):
        with pytest.raises(InputError, match=message):
            visualize_all(models, unit, shape, QUICK)  # type: ignore[arg-type]
    with pytest.raises(ModelOutputError, match="cannot be run on a batch"):
        visualize(model, "0", GREY, QUICK)


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
    for each, net in ((double, seeded(Small).double()), (trace, trace.sparse_copy().eval())):
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
