"""Transformations of images against known ones and a slow restatement pixel by pixel."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from spadelens.errors import InputError
from spadelens.visualization.transformations import NO_TRANSFORMATIONS, Transformations

STILL = {"jitter": 0.0, "scale": (1.0, 1.0), "rotation": 0.0}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=torch.float64)


def draws(count: int, seed: int = 0) -> list[list[float]]:
    """What one image's copies are made with: four numbers in [0, 1] each, for zoom, angle and the shift in x and y."""
    return torch.rand(count, 4, generator=generator(seed), dtype=torch.float32).double().tolist()


@pytest.fixture
def double_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def slow(image: Tensor, zoom: float, degrees: float, shift: tuple[float, float]) -> Tensor:
    """What is seen at each pixel: the bilinear value where it comes from; grey lies around the image."""
    channels, height, width = image.shape
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    seen = torch.full_like(image, 0.5)
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            source_x = (cos * x - sin * y) / zoom + shift[0] * width + (width - 1) / 2
            source_y = (sin * x + cos * y) / zoom + shift[1] * height + (height - 1) / 2
            left, top = math.floor(source_x), math.floor(source_y)
            for channel in range(channels):
                value = 0.0
                for r, weight_r in ((top, top + 1 - source_y), (top + 1, source_y - top)):
                    for c, weight_c in ((left, left + 1 - source_x), (left + 1, source_x - left)):
                        inside = 0 <= r < height and 0 <= c < width
                        value += weight_r * weight_c * (float(image[channel, r, c]) if inside else 0.5)
                seen[channel, row, column] = value
    return seen


@pytest.mark.parametrize(("height", "width"), [(7, 5), (4, 9), (6, 6)])
def test_copies_are_zoomed_turned_and_shifted(height: int, width: int) -> None:
    images = pictures(1, 1, 2, height, width)
    found = Transformations(jitter=0.2, scale=(0.7, 1.6), rotation=40, num_copies=3).copies(images, generator(4))
    assert found.shape == (1, 3, 2, height, width)
    for copy, (zoom, angle, across, down) in zip(found[0], draws(3, 4), strict=True):
        shift = (0.2 * (2 * across - 1), 0.2 * (2 * down - 1))
        expected = slow(images[0, 0], 0.7 + 0.9 * zoom, 40 * (2 * angle - 1), shift)
        assert torch.allclose(copy, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 2, 3, 6, 9), (2, 1, 1, 63, 50)])
def test_none_leaves_images_as_they_are(shape: tuple[int, ...]) -> None:
    images = pictures(*shape)
    assert torch.allclose(NO_TRANSFORMATIONS.copies(images, generator()), images, atol=1e-12)


def test_a_quarter_turn() -> None:
    ((_, angle, _, _),) = draws(1)
    images = pictures(1, 1, 3, 7, 7)
    turned = Transformations(**STILL | {"rotation": 90 / abs(2 * angle - 1)}).copies(images, generator())[0, 0]
    assert torch.allclose(turned, images[0, 0].rot90(1 if angle > 0.5 else -1, (-2, -1)), atol=1e-9)


def test_a_half_turn_of_what_is_not_square() -> None:
    ((_, angle, _, _),) = draws(1)
    images = pictures(1, 1, 3, 5, 8)
    turned = Transformations(**STILL | {"rotation": 180 / abs(2 * angle - 1)}).copies(images, generator())[0, 0]
    assert torch.allclose(turned, images[0, 0].flip(-1, -2), atol=1e-9)


def test_turns_do_not_stretch() -> None:
    """What is turned by a right angle keeps its pixels, though the image is wider than high."""
    ((_, angle, _, _),) = draws(1)
    images = torch.full((1, 1, 1, 5, 9), 0.5, dtype=torch.float64)
    images[0, 0, 0, 2, 3:6] = 1.0  # a bar across the middle
    turned = Transformations(**STILL | {"rotation": 90 / abs(2 * angle - 1)}).copies(images, generator())[0, 0, 0]
    expected = torch.full((5, 9), 0.5, dtype=torch.float64)
    expected[1:4, 4] = 1.0
    assert torch.allclose(turned, expected, atol=1e-9)


def test_a_shift_by_whole_pixels_brings_in_grey() -> None:
    ((_, _, across, down),) = draws(1, 2)
    images = pictures(1, 1, 2, 8, 8)
    jitter = 2 / 8 / (2 * across - 1)
    moved = Transformations(**STILL | {"jitter": abs(jitter)}).copies(images, generator(2))[0, 0]
    by = round(math.copysign(2, 2 * across - 1))  # what is seen comes from so many columns to the right
    fraction = jitter * (2 * down - 1) * math.copysign(1, 2 * across - 1) * 8
    expected = slow(images[0, 0], 1, 0, (by / 8, fraction / 8))
    assert torch.allclose(moved, expected, atol=1e-9)
    outside = moved[:, :, -2:] if by > 0 else moved[:, :, :2]
    assert torch.allclose(outside, torch.full_like(outside, 0.5))


def test_at_zoom_2_a_quarter_fills_the_frame() -> None:
    images = torch.zeros(1, 1, 1, 8, 8, dtype=torch.float64)
    images[..., 2:6, 2:6] = 1.0
    seen = Transformations(**STILL | {"scale": (2.0, 2.0)}).copies(images, generator())[0, 0, 0]
    assert torch.equal(seen[1:-1, 1:-1], torch.ones(6, 6, dtype=torch.float64))
    assert float(seen.min()) == pytest.approx(0.75**2)


def test_draws_fill_their_ranges() -> None:
    transformations = Transformations(jitter=0.0, scale=(0.5, 2.0), rotation=0.0, num_copies=400)
    images = torch.zeros(1, 1, 1, 1, 65, dtype=torch.float64)
    images += torch.linspace(0, 1, 65, dtype=torch.float64)
    seen = transformations.copies(images, generator())[0, :, 0, 0]
    zooms = (1 / 64) / (seen[:, 33] - seen[:, 32])
    assert 0.5 <= float(zooms.min()) < 0.52 and 1.98 < float(zooms.max()) <= 2.0
    shifted = Transformations(jitter=0.1, scale=(1.0, 1.0), rotation=0.0, num_copies=400).copies(images, generator())
    moves = (shifted[0, :, 0, 0, 32] - 0.5) * 64 / 65
    assert -0.1 <= float(moves.min()) < -0.095 and 0.095 < float(moves.max()) <= 0.1


def test_noise_is_of_its_size_and_new_for_every_copy() -> None:
    images = torch.full((2, 2, 3, 30, 31), 0.25)
    seen = Transformations(**STILL, noise=0.2, num_copies=2).copies(images, generator())
    assert seen.dtype == torch.float32
    assert float((seen - 0.25).std()) == pytest.approx(0.2, rel=0.02)
    assert torch.equal(seen[0], seen[1])  # every model sees the same
    assert len({float(copy[0, 0, 0]) for copy in seen[0]}) == 4


def test_copies_of_one_image_lie_together_and_models_see_the_same() -> None:
    images = pictures(3, 2, 1, 6, 5)
    images[1] = images[0]
    seen = Transformations(num_copies=2).copies(images, generator(7))
    assert seen.shape == (3, 4, 1, 6, 5)
    assert torch.equal(seen[0], seen[1])
    assert not torch.allclose(seen[0], seen[2], atol=0.01)
    still = Transformations(**STILL, num_copies=2).copies(images, generator())
    assert torch.allclose(still, images[:, [0, 0, 1, 1]])


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_first_images_get_the_same_whatever_their_number(double_by_default: None, noise: float) -> None:
    transformations = Transformations(noise=noise, num_copies=2)
    images = pictures(1, 3, 3, 6, 7)
    every = transformations.copies(images, generator(9))
    assert torch.equal(transformations.copies(images[:, :1], generator(9)), every[:, :2])
    torch.set_default_dtype(torch.float32)
    assert torch.equal(transformations.copies(images, generator(9)), every)  # whatever the default type


def test_gradients_reach_the_images() -> None:
    images = pictures(1, 1, 1, 8, 8).requires_grad_()
    Transformations(jitter=0.0, rotation=5).copies(images, generator()).sum().backward()
    assert images.grad is not None and bool((images.grad[..., 2:6, 2:6] > 0.5).all())


@pytest.mark.parametrize(
    "settings",
    [
        {"jitter": -0.1},
        {"jitter": math.nan},
        {"rotation": math.inf},
        {"noise": -1.0},
        {"scale": (1.0,)},
        {"scale": (0.0, 1.0)},
        {"scale": (2.0, 1.0)},
        {"scale": (1.0, 1.0, 1.0)},
        {"num_copies": 0},
        {"num_copies": 1.5},
        {"num_copies": True},
    ],
)
def test_settings_out_of_range(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match="Cannot"):
        Transformations(**settings)  # type: ignore[arg-type]


def test_description() -> None:
    assert Transformations().spec() == "jitter=0.07,scale=0.9/1.1,rotation=10.0,noise=0.0,num_copies=1"
