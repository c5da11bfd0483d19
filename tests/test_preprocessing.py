"""Photos become what a model expects: resized, cropped, normalized."""

import numpy as np
import pytest
import torch
from PIL import Image
from references.photos import colorful
from torchvision.transforms.v2 import functional as reference

from spadelens.errors import InputError
from spadelens.photos import Preprocessing

RGB = Preprocessing((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SHAPES = [(50, 60), (60, 50), (300, 300), (37, 211), (500, 31), (33, 32), (64, 65), (129, 127), (40, 40)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("crop_px", "resize_px"), [((32, 32), 36), ((32, 32), None), ((24, 24), 24), ((20, 28), 30)])
@pytest.mark.parametrize("resampling", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_crop_is_resize_and_center_crop(
    shape: tuple[int, int], crop_px: tuple[int, int], resize_px: int | None, resampling: Image.Resampling
) -> None:
    photo = colorful(*shape)
    preprocessing = Preprocessing(crop_px, (0.5,), (0.5,), resize_px, resampling)
    mode = reference.InterpolationMode[resampling.name]
    resized = reference.resize(photo, [resize_px or round(max(crop_px) * 256 / 224)], interpolation=mode)
    expected = reference.center_crop(resized, list(crop_px))
    seen = preprocessing.crop(photo)
    assert seen.size == crop_px[::-1]
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(expected)).max() <= 2


def test_default_resize_is_that_of_imagenet() -> None:
    photo = colorful(300, 400)
    imagenet = Preprocessing((224, 224), (0.5,), (0.5,))
    assert imagenet.crop(photo) == Preprocessing((224, 224), (0.5,), (0.5,), 256).crop(photo)


def test_a_photo_of_the_right_size_is_taken_as_it_is() -> None:
    photo = colorful(20, 30)
    assert Preprocessing((20, 30), (0.5,), (0.5,)).crop(photo) == photo
    assert Preprocessing((30, 20), (0.5,), (0.5,)).crop(photo).size == (20, 30)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (40000, 3)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    photo = Image.new("RGB", size, (10, 200, 30))
    for preprocessing in (RGB, Preprocessing((3, 50), (0.5,), (1.0,)), Preprocessing((64, 8), (0.5,), (1.0,), 7)):
        seen = np.asarray(preprocessing.crop(photo))
        assert seen.shape == (*preprocessing.crop_px, 3)
        assert (seen == [10, 200, 30]).all()


def test_tensor_by_definition() -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 4.0)
    photo = colorful(5, 7)
    tensor = Preprocessing((5, 7), mean, std).to_tensor(photo)
    assert tensor.shape == (3, 5, 7)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    for channel in range(3):
        for row in range(5):
            for column in range(7):
                value = (photo.getpixel((column, row))[channel] / 255 - mean[channel]) / std[channel]
                assert float(tensor[channel, row, column]) == pytest.approx(value, abs=1e-5)


def test_one_channel() -> None:
    photo = colorful(5, 7)
    tensor = Preprocessing((5, 7), (0.25,), (0.5,)).to_tensor(photo)
    assert tensor.shape == (1, 5, 7)
    expected = (np.asarray(photo.convert("L")) / 255 - 0.25) / 0.5
    assert np.allclose(tensor[0].numpy(), expected, atol=1e-6)
    assert Preprocessing((5, 7), (0.25,), (0.5,)).crop(photo).mode == "RGB"


@pytest.mark.parametrize(
    ("crop_px", "mean", "std"),
    [
        ((8, 8), (0.5,), (0.5, 0.5)),
        ((8, 8), (0.5, 0.5), (0.5, 0.5)),
        ((8, 8), (), ()),
        ((8, 8), (0.5,), (0.0,)),
        ((8, 8), (0.5,), (-1.0,)),
        ((8, 8), (0.5,), (float("nan"),)),
        ((0, 8), (0.5,), (0.5,)),
        ((8, -1), (0.5,), (0.5,)),
        ((8.0, 8), (0.5,), (0.5,)),
    ],
)
def test_impossible_preprocessing(crop_px: tuple[int, int], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="Cannot"):
        Preprocessing(crop_px, mean, std)


def test_unknown_fit() -> None:
    with pytest.raises(InputError, match="Cannot fit photos by 'stretch'"):
        Preprocessing((8, 8), (0.5,), (0.5,), fit="stretch")  # type: ignore[arg-type]


def test_margins_have_the_mean_color() -> None:
    """A wide photo in the middle of a square: the margin is what normalization makes zero, up to half a level."""
    preprocessing = Preprocessing((12, 12), (0.2, 0.5, 0.9), (0.5, 0.5, 0.5), (12, 12), fit="pad")
    seen = preprocessing.to_tensor(preprocessing.crop(Image.new("RGB", (40, 20), "white")))
    assert float(seen[:, :3].abs().max()) <= 0.5 / 255 / 0.5 + 1e-6
    assert torch.equal(seen[:, 3:9], ((1 - torch.tensor([0.2, 0.5, 0.9])) / 0.5).view(3, 1, 1).expand(3, 6, 12))
    assert torch.equal(seen[:, 9:], seen[:, :3])
    grey = Preprocessing((12, 12), (0.2,), (0.5,), (12, 12), fit="pad")
    assert float(grey.to_tensor(grey.crop(Image.new("RGB", (40, 20), "white")))[:, 0].abs().max()) < 0.005


def test_squashed_photos_keep_their_edges() -> None:
    left, right = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (60, 20), "blue")
    left_right = Image.new("RGB", (60, 20))
    left_right.paste(right)
    left_right.paste(left)
    squashed = Preprocessing((10, 10), (0.0,) * 3, (1.0,) * 3, (10, 10), fit="squash").crop(left_right)
    assert [squashed.getpixel(place) for place in ((0, 5), (9, 5))] == [(255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize(("is_floored", "expected"), [(False, 2), (True, 1)])
def test_where_a_crop_lies_between_pixels(is_floored: bool, expected: int) -> None:
    """Of 11 columns 8 are left: 1.5 are cut off on the left, rounded to the even 2 or down to 1."""
    columns = Image.fromarray(np.tile(np.arange(11, dtype=np.uint8)[None, :, None] * 20, (8, 1, 3)))
    preprocessing = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3, 8, is_floored=is_floored)
    assert np.asarray(preprocessing.crop(columns))[0, :, 0].tolist() == [
        20 * number for number in range(expected, expected + 8)
    ]
