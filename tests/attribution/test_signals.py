"""Signals and volumes from views to maps: one value for each time step and voxel, by definition."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spadelens import attribute, extract_trace
from spadelens.errors import AttributionError, InputError
from spadelens.kinds import Kind
from spadelens.methods.registry import METHODS

SAMPLES: dict[Kind, Tensor] = {
    "signal": torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    "volume": torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
}
ONLY_PHOTOS = {"score_cam", "grad_cam", "guided_grad_cam"}


def make(kind: Kind) -> nn.Module:
    torch.manual_seed(1)
    conv, pool = (nn.Conv1d, nn.AdaptiveAvgPool1d) if kind == "signal" else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    return nn.Sequential(conv(2, 5, 3), nn.ReLU(), conv(5, 5, 3), nn.ReLU(), pool(2), nn.Flatten(), nn.LazyLinear(3))


@pytest.fixture(params=["signal", "volume"])
def case(request: pytest.FixtureRequest) -> tuple[Kind, nn.Module, Tensor]:
    kind, sample = request.param, SAMPLES[request.param]
    model = make(kind).double()
    model(sample[None])
    return kind, model, sample


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_gives_one_value_for_each_unit_or_refuses(
    case: tuple[Kind, nn.Module, Tensor], method: str
) -> None:
    kind, model, sample = case
    if method in ONLY_PHOTOS:
        with pytest.raises(AttributionError, match="photo"):
            attribute(model, sample, method)
        return
    found = attribute(model, sample, method)
    assert found.values.shape == sample.shape[1:] and found.attribution.shape == sample.shape and found.kind == kind
    assert found.values.unique().numel() > 4
    torch.testing.assert_close(found.values, found.attribution.abs().sum(0))


def test_saliency_is_the_gradient(case: tuple[Kind, nn.Module, Tensor]) -> None:
    _, model, sample = case
    batch = sample[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(batch)[0, 1], batch)
    torch.testing.assert_close(attribute(model, sample, "saliency", target=1).values, gradient[0].abs().sum(0))


def test_occlusion_covers_windows_of_every_axis(case: tuple[Kind, nn.Module, Tensor]) -> None:
    _, model, sample = case
    found = attribute(model, sample, "occlusion:window=0.3,stride=1.0,baseline=0.5", target=0)
    sizes = [max(1, round(0.3 * size)) for size in sample.shape[1:]]
    expected = torch.zeros_like(sample)
    with torch.no_grad():
        full = model(sample[None])[0, 0]
        starts = [range(0, size, window) for size, window in zip(sample.shape[1:], sizes, strict=True)]
        for corner in itertools.product(*starts):
            window = (slice(None), *(slice(start, start + size) for start, size in zip(corner, sizes, strict=True)))
            covered = sample.clone()
            covered[window] = 0.5
            expected[window] = full - model(covered[None])[0, 0]
    torch.testing.assert_close(found.attribution, expected.to(found.attribution))


def test_lime_gives_a_segment_of_a_signal_one_value() -> None:
    model, sample = make("signal").double(), SAMPLES["signal"]
    model(sample[None])
    values = attribute(model, sample, "lime:num_segments=8,num_samples=300", reduction="sum").values
    segments = values.view(8, 5)
    assert torch.equal(segments, segments[:, :1].expand(8, 5)) and segments[:, 0].unique().numel() == 8


def test_a_linear_signal_is_explained_exactly() -> None:
    """Of a linear model, input x gradient, integrated gradients and occlusion of single steps are the same numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.Flatten(), nn.Linear(120, 3)).double()
    sample = SAMPLES["signal"]
    maps = [
        attribute(model, sample, method, target=2).attribution
        for method in ("input_x_gradient", "integrated_gradients", "deep_lift")
    ]
    torch.testing.assert_close(maps[0], maps[1])
    torch.testing.assert_close(maps[0], maps[2])
    steps = attribute(model, sample, "occlusion:window=0.025", target=2).attribution
    torch.testing.assert_close(steps[0], maps[0].sum(0).to(steps))


def test_a_trace_of_a_signal_knows_what_it_is_of(case: tuple[Kind, nn.Module, Tensor]) -> None:
    kind, model, sample = case
    trace = extract_trace(model, sample, schedule=0.5, num_views=4)
    assert trace.report.kind == kind and trace.report.pruned_layers
    assert attribute(trace, sample).values.shape == sample.shape[1:]
    with pytest.raises(InputError, match=r"expects \[C, H, W\]"):
        extract_trace(model, sample, augmentation="paper", schedule=0.5)


def test_a_trace_explains_the_class_that_it_was_made_for(case: tuple[Kind, nn.Module, Tensor]) -> None:
    _, model, sample = case
    predicted = int(model(sample[None]).argmax())
    other = (predicted + 1) % 3
    trace = extract_trace(model, sample, target=other, schedule=0.5, num_views=4)
    assert attribute(trace, sample, "saliency").target == other
    assert torch.equal(
        attribute(trace, sample, "saliency").values, attribute(trace, sample, "saliency", target=other).values
    )
    assert attribute(trace, sample, "saliency", target=predicted).target == predicted


def test_the_caller_says_what_does_not_show() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(80, 3)).double()
    sample = SAMPLES["signal"]
    with pytest.raises(InputError, match="kind='signal'"):
        attribute(model, sample)
    assert attribute(model, sample, kind="signal").values.shape == (40,)
    assert attribute(model, sample, kind="text").values.shape == (2,)
    trace = extract_trace(model, sample, kind="signal", schedule=0.5, num_views=4)
    assert attribute(trace, sample).values.shape == (40,)


def test_a_batch_of_one_is_taken_for_its_sample() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    photo = torch.randn(3, 8, 8)
    assert torch.equal(attribute(model, photo[None], "saliency").values, attribute(model, photo, "saliency").values)
    assert extract_trace(model, photo[None], schedule=0.5, num_views=2).report.kind == "photo"


@pytest.mark.parametrize("target", [torch.tensor(1), torch.tensor([1]), np.int64(1), np.uint8(1)])
def test_numbers_of_torch_and_numpy_are_classes(target: object) -> None:
    model, sample = make("signal").double(), SAMPLES["signal"]
    model(sample[None])
    assert attribute(model, sample, "saliency", target=target).target == 1


@pytest.mark.parametrize("target", [torch.tensor(1.0), torch.tensor([0, 1]), np.float64(1), True, "1"])
def test_what_is_not_a_class_is_refused(target: object) -> None:
    model, sample = make("signal").double(), SAMPLES["signal"]
    model(sample[None])
    with pytest.raises(InputError, match="no class"):
        attribute(model, sample, "saliency", target=target)


@pytest.mark.parametrize("sample", [torch.zeros(2, 40, device="meta"), torch.zeros(2, 40).to_sparse()])
def test_tensors_without_values_are_refused(sample: Tensor) -> None:
    with pytest.raises(InputError, match=r"meta|sparse"):
        attribute(nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(114, 2)), sample)


def test_lazy_layers_that_have_not_run_are_refused() -> None:
    with pytest.raises(InputError, match="lazy"):
        attribute(make("signal").double(), SAMPLES["signal"])
