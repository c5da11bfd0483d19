"""Heatmaps as pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from spadelens.pictures import heatmap_picture, overlay_picture, photo_picture, png_bytes, scaled


def ramp(height: int, width: int) -> torch.Tensor:
    return torch.linspace(0, 1, height * width).view(height, width)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(64, 64, (448, 448)), (50, 70, (630, 450)), (448, 500, (500, 448)), (600, 700, (700, 600))],
)
def test_sizes(height: int, width: int, size: tuple[int, int]) -> None:
    photo = Image.new("RGB", (width, height), (90, 100, 110))
    values = ramp(height, width)
    for picture in (heatmap_picture(values), overlay_picture(values, photo), photo_picture(photo)):
        assert picture.size == size
        assert picture.mode == "RGB"


def test_scaling() -> None:
    values = torch.arange(1000.0).view(20, 50)
    expected = np.clip(values.double().numpy() / np.quantile(values.double().numpy(), 0.995), 0, 1)
    assert np.allclose(scaled(values), expected)
    assert np.allclose(scaled(1e-30 * values), expected)
    assert np.allclose(scaled(-values), expected)
    assert np.allclose(scaled(values.half()), scaled(values.half().double()))


def test_maps_with_few_bright_pixels() -> None:
    values = torch.zeros(50, 50)
    assert scaled(values).max() == 0.0
    values[3, 4] = 1e-3
    values[3, 5] = 5e-4
    assert scaled(values)[3, 4] == 1.0
    assert scaled(values)[3, 5] == pytest.approx(0.5)
    assert scaled(values).sum() == pytest.approx(1.5)


def test_heatmaps_are_brighter_where_they_are_higher() -> None:
    colors = np.asarray(heatmap_picture(ramp(1, 448).expand(448, 448))).astype(int).sum(-1)[0]
    assert (np.diff(colors) >= -1).all()
    assert colors[0] < 10
    assert colors[-1] > 550
    assert np.asarray(heatmap_picture(torch.zeros(8, 8))).sum(-1).max() < 10


def test_every_pixel_becomes_a_square() -> None:
    values = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
    pixels = np.asarray(heatmap_picture(values))
    assert pixels.shape == (448, 448, 3)
    blocks = pixels.reshape(4, 112, 4, 112, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


def test_overlays_show_the_photo_in_grey_where_nothing_is() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    values = torch.zeros(16, 16)
    grey = np.asarray(photo.convert("L").convert("RGB"))
    assert np.array_equal(np.asarray(overlay_picture(values, photo))[::28, ::28], grey)
    values[5, 6] = 1.0
    pixels = np.asarray(overlay_picture(values, photo))[::28, ::28]
    assert (pixels != grey).any(-1).sum() == 1
    bright = np.asarray(heatmap_picture(values))[5 * 28, 6 * 28]
    assert np.abs(pixels[5, 6] - (0.15 * grey[5, 6] + 0.85 * bright)).max() <= 1


def test_png() -> None:
    picture = heatmap_picture(ramp(9, 9))
    content = png_bytes(picture)
    assert content.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(content)) as opened:
        assert np.array_equal(np.asarray(opened), np.asarray(picture))
    assert png_bytes(picture) == content
