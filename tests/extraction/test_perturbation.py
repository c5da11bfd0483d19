"""Baselines, the order in which pixels appear, and areas, from their definitions in float64."""

import math

import numpy as np
import pytest
import torch
from references.networks import Weighted

from spadelens.errors import InputError, UnknownNameError
from spadelens.extraction.pipeline.perturbation import area, blurred, make_baseline, probability_curve


def test_blur_from_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(2, 9, 14, generator=generator, dtype=torch.float64)
    std, radius = 1.3, 3
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / std) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(picture.numpy(), ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    expected = np.zeros(picture.shape)
    for down in range(2 * radius + 1):
        for across in range(2 * radius + 1):
            expected += kernel[down] * kernel[across] * padded[:, down : down + 9, across : across + 14]
    assert np.allclose(blurred(picture, std).numpy(), expected, rtol=1e-12, atol=1e-14)


def test_baselines() -> None:
    sample = torch.rand(3, 20, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(make_baseline(sample, "blur"), blurred(sample, 2.0))
    assert torch.allclose(make_baseline(sample, "mean")[:, 7, 3], sample.mean((1, 2)))
    with pytest.raises(UnknownNameError):
        make_baseline(sample, "black")  # type: ignore[arg-type]
    with pytest.raises(InputError):
        make_baseline(sample[0], "blur")


@pytest.mark.parametrize("direction", ["insertion", "deletion"])
@pytest.mark.parametrize(("height", "width", "num_steps"), [(4, 5, 20), (3, 7, 6), (2, 2, 9)])
def test_the_curve_pixel_by_pixel(direction: str, height: int, width: int, num_steps: int) -> None:
    generator = torch.Generator().manual_seed(height)
    sample = torch.randn(1, height, width, generator=generator, dtype=torch.float64)
    weights = torch.randn(height, width, generator=generator, dtype=torch.float64)
    heatmap = torch.randperm(height * width, generator=generator).reshape(height, width).double()
    curve = probability_curve(
        Weighted(weights), sample, heatmap, 0,
        direction=direction, baseline="mean", num_steps=num_steps, scale="logits", batch_size=3,
    )  # fmt: skip
    order = heatmap.flatten().argsort(descending=True)
    gray = float(sample.mean())
    for step in range(num_steps + 1):
        shown = set(order[: round(np.round(step * height * width / num_steps))].tolist())
        is_image = [(place in shown) == (direction == "insertion") for place in range(height * width)]
        pixels = torch.where(torch.tensor(is_image), sample.flatten(), gray)
        expected = torch.sigmoid((pixels * weights.flatten()).sum())
        assert float(curve[step]) == pytest.approx(float(expected), rel=1e-9)


def test_equal_pixels_appear_in_no_order_of_places() -> None:
    """A map that is zero everywhere must not win by the layout of memory: the first rows would come first."""
    weights = torch.zeros(10, 10, dtype=torch.float64)
    weights[:2] = 0.2
    sample = torch.ones(1, 10, 10, dtype=torch.float64)
    sample[:, 2:] = 0.0
    settings = {"direction": "insertion", "baseline": "mean", "num_steps": 5, "scale": "logits"}
    curve = probability_curve(Weighted(weights), sample, torch.zeros(10, 10), 0, **settings)
    first_rows_only = 1 / (1 + math.exp(-0.2 * 20))  # 0.98; a fifth of them, and gray elsewhere: 0.81
    assert float(curve[1]) < first_rows_only - 0.1
    assert torch.equal(curve, probability_curve(Weighted(weights), sample, torch.zeros(10, 10), 0, **settings))


def test_area_by_hand() -> None:
    assert area(torch.tensor([0.0, 1.0, 1.0])) == pytest.approx(0.75)


def test_half_precision_is_blurred_in_single() -> None:
    torch.manual_seed(0)
    picture = torch.randn(3, 40, 30)
    found = blurred(picture.half(), 3.0)
    assert found.dtype == torch.float16
    assert torch.equal(found, blurred(picture.half().float(), 3.0).half())
