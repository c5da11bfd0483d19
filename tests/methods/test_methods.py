"""The attribution methods against slow restatements from their definitions."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.methods.registry import (
    METHODS,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Method,
    Occlusion,
    Saliency,
)
from spadelens.settings import parse_configured

TARGET = 2


class Curved(nn.Module):
    """A small smooth network in float64 on inputs of 2 channels that are not square."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3, padding=1)
        self.linear = nn.Linear(3 * 4 * 6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(nn.functional.softplus(self.convolution(inputs)).flatten(1))


@pytest.fixture
def model() -> Iterator[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield Curved().double().eval()


@pytest.fixture
def sample() -> Tensor:
    return torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


def gradient(model: nn.Module, point: Tensor) -> Tensor:
    point = point.detach().clone().requires_grad_()
    model(point)[0, TARGET].backward(inputs=[point])
    assert point.grad is not None
    return point.grad


def score(model: nn.Module, point: Tensor) -> float:
    with torch.no_grad():
        return float(model(point)[0, TARGET])


def test_saliency_is_the_gradient(model: nn.Module, sample: Tensor) -> None:
    found = Saliency().attribute(model, sample, TARGET)
    assert torch.allclose(found.values, gradient(model, sample), rtol=1e-12)
    assert bool((found.values < 0).any())
    assert found.convergence_delta is None
    # and by finite differences
    step = torch.zeros_like(sample)
    step[0, 1, 2, 3] = 1e-5
    slope = (score(model, sample + step) - score(model, sample - step)) / 2e-5
    assert float(found.values[0, 1, 2, 3]) == pytest.approx(slope, rel=1e-6)


def test_input_x_gradient(model: nn.Module, sample: Tensor) -> None:
    found = InputXGradient().attribute(model, sample, TARGET)
    assert torch.allclose(found.values, gradient(model, sample) * sample, rtol=1e-12)
    assert found.convergence_delta is None


@pytest.mark.parametrize("baseline", [0.0, -0.7])
def test_integrated_gradients(model: nn.Module, sample: Tensor, baseline: float) -> None:
    start = torch.full_like(sample, baseline)
    steps = 1000  # a Riemann sum at the middle of every step
    mean = sum(gradient(model, start + (sample - start) * (k + 0.5) / steps) for k in range(steps)) / steps
    expected = (sample - start) * mean
    found = IntegratedGradients(baseline=baseline).attribute(model, sample, TARGET)
    assert torch.allclose(found.values, expected, rtol=1e-5, atol=1e-8)
    difference = score(model, sample) - score(model, start)
    assert float(found.values.detach().sum()) == pytest.approx(difference, abs=1e-9)
    assert found.convergence_delta == pytest.approx(0.0, abs=1e-9)


def test_delta_of_integrated_gradients(model: nn.Module, sample: Tensor) -> None:
    found = IntegratedGradients(num_steps=2).attribute(model, 5 * sample.detach(), TARGET)
    difference = score(model, 5 * sample) - score(model, torch.zeros_like(sample))
    assert found.convergence_delta is not None
    assert abs(found.convergence_delta) > 1e-4
    assert found.convergence_delta == pytest.approx(float(found.values.detach().sum()) - difference, abs=1e-9)


def test_gradient_shap_of_a_linear_model(sample: Tensor) -> None:
    """For f = w x the gradient is w everywhere: w (x - baseline), plus w times the mean of the noise."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 4)).double()
    weight = linear[1].weight[TARGET].detach().view_as(sample)
    found = GradientShap(noise_std=0.0, baseline=0.3, num_samples=5).attribute(linear, sample, TARGET)
    assert torch.allclose(found.values, weight * (sample - 0.3), rtol=1e-6, atol=1e-9)
    assert found.convergence_delta == pytest.approx(0.0, abs=1e-6)
    noisy = GradientShap(noise_std=0.5, num_samples=4000).attribute(linear, sample, TARGET)
    assert torch.allclose(noisy.values / weight, sample, atol=5 * 0.5 / 4000**0.5)
    few = GradientShap(noise_std=0.5, num_samples=8).attribute(linear, sample, TARGET)
    spread = (few.values / weight - sample).detach().std()
    assert float(spread) == pytest.approx(0.5 / 8**0.5, rel=0.5)


def test_gradient_shap_is_the_mean_over_random_points(model: nn.Module, sample: Tensor) -> None:
    """Without noise it estimates integrated gradients, as any mean over the path does."""
    expected = IntegratedGradients().attribute(model, sample, TARGET).values.detach()
    found = GradientShap(noise_std=0.0, num_samples=2000).attribute(model, sample, TARGET)
    assert torch.allclose(found.values, expected, atol=0.04 * float(expected.abs().max()))
    # with noise: the mean over x' = x + noise of (x' - baseline) * gradient at a random point of the path to x'
    generator = torch.Generator().manual_seed(7)
    total = torch.zeros_like(sample)
    for _ in range(2000):
        end = sample + 0.4 * torch.randn(sample.shape, generator=generator, dtype=torch.float64)
        where = float(torch.rand(1, generator=generator))
        total += end.detach() * gradient(model, where * end)
    noisy = GradientShap(noise_std=0.4, num_samples=2000).attribute(model, sample, TARGET)
    assert torch.allclose(noisy.values, total / 2000, atol=0.1 * float(expected.abs().max()))


def test_delta_of_gradient_shap(model: nn.Module, sample: Tensor) -> None:
    found = GradientShap(noise_std=0.0, num_samples=3).attribute(model, sample, TARGET)
    difference = score(model, sample) - score(model, torch.zeros_like(sample))
    assert found.convergence_delta == pytest.approx(float(found.values.detach().sum()) - difference, abs=1e-6)


def test_gradient_shap_draws_from_its_seed_alone(model: nn.Module, sample: Tensor) -> None:
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002
    first = GradientShap(num_samples=6).attribute(model, sample, TARGET)
    assert before == (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())  # noqa: NPY002
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    again = GradientShap(num_samples=6).attribute(model, sample, TARGET)
    assert torch.equal(first.values, again.values)
    assert first.convergence_delta == again.convergence_delta
    other = GradientShap(num_samples=6, seed=1).attribute(model, sample, TARGET)
    assert not torch.allclose(first.values, other.values)


@pytest.mark.parametrize(("window", "stride"), [(0.5, 0.5), (0.5, 1.0), (0.34, 1.0), (1.0, 1.0), (0.01, 1.0)])
def test_occlusion(model: nn.Module, sample: Tensor, window: float, stride: float) -> None:
    height, width = (max(1, round(size * window)) for size in (4, 6))
    down, across = max(1, round(height * stride)), max(1, round(width * stride))
    total, count = torch.zeros(4, 6), torch.zeros(4, 6)
    tops = [*range(0, 4 - height + 1, down)]
    lefts = [*range(0, 6 - width + 1, across)]
    # where the last step would leave a rim uncovered, one more window is moved on and cut off at the edge
    tops += [tops[-1] + down] if tops[-1] + height < 4 else []
    lefts += [lefts[-1] + across] if lefts[-1] + width < 6 else []
    for top in tops:
        for left in lefts:
            covered = sample.detach().clone()
            covered[..., top : top + height, left : left + width] = 0.25
            total[top : top + height, left : left + width] += score(model, sample) - score(model, covered)
            count[top : top + height, left : left + width] += 1
    found = Occlusion(window, stride, baseline=0.25).attribute(model, sample, TARGET)
    assert bool((count > 0).all())
    for channel in range(2):
        assert torch.allclose(found.values[0, channel].float(), total / count, atol=1e-5)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batch_size_does_not_matter(model: nn.Module, sample: Tensor, name: str, batch_size: int) -> None:
    whole = METHODS[name]().attribute(model, sample, TARGET)
    parts = parse_configured("method", f"{name}:batch_size={batch_size}", METHODS).attribute(model, sample, TARGET)
    assert torch.allclose(whole.values, parts.values, rtol=1e-9, atol=1e-12)
    if whole.convergence_delta is not None:
        assert parts.convergence_delta == pytest.approx(whole.convergence_delta, abs=1e-9)


def test_gradient_shap_runs_one_point_at_a_time(sample: Tensor) -> None:
    """So that its points depend on the seed alone, and memory does not grow with their number."""
    sizes = []

    class Watched(Curved):
        def forward(self, inputs: Tensor) -> Tensor:
            sizes.append(len(inputs))
            return super().forward(inputs)

    GradientShap(num_samples=5).attribute(Watched().double(), sample, TARGET)
    assert max(sizes) == 1


@pytest.mark.parametrize("shape", [(7, 3), (5,)])
def test_occlusion_covers_one_token_or_one_column_at_a_time(shape: tuple[int, ...]) -> None:
    class Bent(nn.Module):
        input_kind = "text" if len(shape) > 1 else "row"

        def forward(self, inputs: Tensor) -> Tensor:
            flat = inputs.flatten(1)
            return torch.stack([(flat * flat.roll(k + 1, 1)).cumsum(1).sin().sum(1) for k in range(4)], 1)

    bent, sample = Bent(), torch.randn(1, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = Occlusion(window=0.9, stride=1.0, baseline=0.25, batch_size=2).attribute(bent, sample, TARGET).values
    for number in range(shape[0]):
        covered = sample.clone()
        covered[0, number] = 0.25
        expected = score(bent, sample) - score(bent, covered)
        assert found[0, number].flatten().tolist() == pytest.approx([expected] * found[0, number].numel(), rel=1e-5)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_batches_are_never_larger_than_asked(sample: Tensor, name: str) -> None:
    sizes = []

    class Watched(Curved):
        def forward(self, inputs: Tensor) -> Tensor:
            sizes.append(len(inputs))
            return super().forward(inputs)

    parse_configured("method", f"{name}:batch_size=5", METHODS).attribute(Watched().double(), sample, TARGET)
    assert max(sizes) == 5


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_shape_and_type(model: nn.Module, sample: Tensor, name: str) -> None:
    method = METHODS[name]()
    assert isinstance(method, Method)
    for dtype in (torch.float32, torch.float64):
        found = method.attribute(model.to(dtype), sample.detach().to(dtype).requires_grad_(), TARGET)
        assert found.values.shape == sample.shape
        assert found.values.dtype in (dtype, torch.float32)  # Captum's occlusion has one type only


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("integrated_gradients:num_steps=0", "num_steps=0"),
        ("integrated_gradients:batch_size=-1", "batch_size=-1"),
        ("gradient_shap:num_samples=0", "num_samples=0"),
        ("gradient_shap:noise_std=-1", "noise_std=-1.0"),
        ("gradient_shap:noise_std=nan", "noise_std=nan"),
        ("gradient_shap:seed=-1", "seed=-1"),
        ("occlusion:window=0", "window=0.0"),
        ("occlusion:window=1.5", "window=1.5"),
        ("occlusion:stride=nan", "stride=nan"),
        ("occlusion:batch_size=0", "batch_size=0"),
        ("lime:num_samples=9", "num_samples=9"),
        ("score_cam:batch_size=0", "batch_size=0"),
    ],
)
def test_settings_out_of_range(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_configured("method", text, METHODS)


@pytest.mark.parametrize(
    "text",
    [
        f"gradient_shap:seed={2**64}",
        "gradient_shap:noise_std=inf",
        "gradient_shap:baseline=nan",
        "integrated_gradients:baseline=nan",
        "occlusion:baseline=inf",
    ],
)
def test_settings_that_lead_nowhere(text: str) -> None:
    with pytest.raises(InputError):
        parse_configured("method", text, METHODS)


def test_counts_have_to_be_whole() -> None:
    for count in (2.0, True, "3"):
        with pytest.raises(InputError, match="expected an integer"):
            IntegratedGradients(num_steps=count)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision(method: str, dtype: torch.dtype) -> None:
    """Every method runs on models in half precision, and says about what it says in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU())
        model = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).eval()
    sample = torch.rand(1, 1, 12, 10, generator=torch.Generator().manual_seed(3)) + 0.5
    wanted = METHODS[method]().attribute(model, sample.clone().requires_grad_(), TARGET).values
    found = METHODS[method]().attribute(model.to(dtype), sample.to(dtype).requires_grad_(), TARGET).values
    likeness = nn.functional.cosine_similarity(found.detach().float().flatten(), wanted.detach().flatten(), 0)
    assert float(likeness) > (0.95 if dtype == torch.float16 else 0.5), method  # bfloat16 has three digits
