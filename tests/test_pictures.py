"""Heatmaps as pictures."""

import io
import re

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spadelens.pictures import (
    contrast_picture,
    heatmap_picture,
    mask_picture,
    outline_path,
    outlined_picture,
    overlay_picture,
    photo_bytes,
    photo_picture,
    png_bytes,
    scaled,
)


def ramp(height: int, width: int) -> torch.Tensor:
    return torch.linspace(0, 1, height * width).view(height, width)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (64, 64, (448, 448)),
        (50, 70, (630, 450)),
        (448, 500, (500, 448)),
        (600, 700, (700, 600)),
        (64, 16, (224, 896)),
        (1, 50, (850, 17)),
    ],
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


def drawn_from(path: str, height: int, width: int) -> NDArray[np.bool_]:
    """Return which pixels lie inside an outline, by the even-odd rule along each row."""
    edges = np.zeros((height, width + 1), dtype=int)
    for x, top, bottom in re.findall(r"M(\d+) (\d+)V(\d+)", path):
        edges[int(top) : int(bottom), int(x)] += 1
    inside: NDArray[np.bool_] = np.cumsum(edges, axis=1)[:, :width] % 2 == 1
    return inside


@pytest.mark.parametrize("seed", range(5))
def test_an_outline_encloses_its_region(seed: int) -> None:
    region = torch.rand(9, 13, generator=torch.Generator().manual_seed(seed)) > 0.5
    path = outline_path(region)
    assert np.array_equal(drawn_from(path, 9, 13), region.numpy())
    turned = re.sub(r"M(\d+) (\d+)H(\d+)", r"m\2 \1V\3", re.sub(r"M(\d+) (\d+)V(\d+)", "", path)).upper()
    assert np.array_equal(drawn_from(turned, 13, 9), region.numpy().T)
    assert outline_path(torch.zeros(4, 5, dtype=torch.bool)) == ""


def test_an_outlined_photo_keeps_what_is_inside() -> None:
    photo = Image.new("RGB", (64, 64), (90, 100, 110))
    region = torch.zeros(64, 64, dtype=torch.bool)
    region[10:20, 30:50] = True
    pixels = np.asarray(outlined_picture(photo, region))
    large = region.numpy().repeat(7, 0).repeat(7, 1)
    assert (pixels[large] == (90, 100, 110)).all()
    assert pixels[10 * 7 - 1, 40 * 7].tolist() == [255, 255, 255]
    assert pixels[10 * 7 - 5, 40 * 7].tolist() == [0, 0, 0]
    assert pixels[0, 0].tolist() == [90, 100, 110]


def test_contrasts_have_a_color_for_each_sign() -> None:
    photo = Image.new("RGB", (448, 448), (128, 128, 128))
    values = torch.zeros(448, 448)
    values[:, :100], values[:, 300:] = 1.0, -1.0
    pixels = np.asarray(contrast_picture(values, photo)).astype(int)
    assert pixels[5, 5, 2] > pixels[5, 5, 0] + 100  # blue speaks for the class
    assert pixels[5, 400, 0] > pixels[5, 400, 2] + 100  # orange against it
    assert pixels[5, 200].tolist() == [128, 128, 128]


def test_masks_and_photos_as_files() -> None:
    region = torch.tensor([[True, False, False]])
    assert np.asarray(mask_picture(region)).tolist() == [[255, 0, 0]]
    data = photo_bytes(Image.new("RGB", (30, 20)))
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    assert Image.open(io.BytesIO(data)).size == (30, 20)
