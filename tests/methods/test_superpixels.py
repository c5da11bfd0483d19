"""Superpixels: as many as a photo's size allows, connected, along its edges, and a grid where colors say nothing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from spadelens.errors import AttributionError
from spadelens.methods.superpixels import superpixels


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stripes(channels: int, height: int, width: int) -> Tensor:
    """Return a pattern of black and white pixels that SLIC joins wholly at its usual compactness."""
    return ((torch.arange(height)[:, None] + torch.arange(width)) % 2).expand(channels, height, width).float()


def count(labels: Tensor) -> int:
    """Return how many there are, and check that they are numbered without a gap."""
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == list(range(int(labels.max()) + 1))
    return int(labels.max()) + 1


@pytest.mark.parametrize("make", [noise, stripes, torch.zeros, torch.ones])
@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        ((3, 24, 24), 18),
        ((1, 32, 32), 32),
        ((3, 64, 64), 64),
        ((3, 61, 247), 64),
        ((1, 7, 13), 8),
        ((2, 1, 9), 8),
        ((4, 2, 2), 4),
        ((1, 40, 1), 8),
        ((16, 48, 40), 60),
    ],
)
def test_their_number_follows_from_the_size_whatever_the_colors(
    make: Callable[..., Tensor], shape: tuple[int, ...], wanted: int
) -> None:
    labels = superpixels(make(*shape), 64)
    assert labels.shape == shape[1:]
    assert 0.5 * wanted <= count(labels) <= 1.5 * wanted


def test_large_photos_have_as_many_as_asked_for() -> None:
    smooth = torch.nn.functional.interpolate(noise(1, 3, 30, 30), (1024, 768), mode="bilinear")[0]
    assert 32 <= count(superpixels(smooth, 64)) <= 80
    assert 10 <= count(superpixels(smooth, 20)) <= 25
    assert count(superpixels(noise(3, 64, 64), 1)) == 1


def test_one_pixel_is_one() -> None:
    assert superpixels(torch.ones(3, 1, 1), 64).tolist() == [[0]]


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 50, 70)])
def test_a_photo_of_one_color_gives_a_grid(shape: tuple[int, ...]) -> None:
    labels = superpixels(torch.full(shape, 0.3), 64)
    for number in range(count(labels)):
        places = (labels == number).nonzero()
        height, width = (places.amax(0) - places.amin(0) + 1).tolist()
        assert height * width == len(places)  # a rectangle
        assert 0.5 <= height / width <= 2


def test_they_follow_edges_and_do_not_depend_on_the_scale_of_the_values() -> None:
    rows, columns = torch.arange(60)[:, None], torch.arange(60)
    is_disk = (rows - 31) ** 2 + (columns - 27) ** 2 < 17**2
    photo = torch.where(is_disk, 2.0, -1.0).expand(3, 60, 60) + 0.05 * noise(3, 60, 60)
    labels = superpixels(photo, 64)
    mixed = sum(min(int(is_disk[labels == n].sum()), int((~is_disk)[labels == n].sum())) for n in range(count(labels)))
    assert mixed < 0.02 * 3600  # places on the wrong side of the edge
    for changed in (photo * 1000, photo * 1e-3 + 4, (photo * 0.5).double(), photo.repeat(5, 1, 1)):
        assert (superpixels(changed, 64) == labels).float().mean() > 0.99


def test_each_is_connected() -> None:
    from scipy.ndimage import label

    labels = superpixels(noise(3, 45, 33), 64).numpy()
    for number in np.unique(labels):
        assert label(labels == number, np.ones((3, 3)))[1] == 1


def test_volumes_have_them_too() -> None:
    labels = superpixels(noise(2, 5, 12, 9), 64)
    assert labels.shape == (5, 12, 9)
    assert 8 <= count(labels) <= 26


@pytest.mark.parametrize("shape", [(4, 5), (1, 2, 3, 4, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(AttributionError, match=r"expected \[C, H, W\]"):
        superpixels(torch.zeros(shape), 64)
