"""Photos are read as a person would see them, and become what a model expects."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features
from torchvision.transforms.v2 import functional as reference

from spadelens import photos
from spadelens.errors import InputError, PhotoError
from spadelens.photos import Preprocessing, read_photo

RGB = Preprocessing((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def colorful(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth picture with something different in every corner."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def pixels_of(path: Path) -> np.ndarray:
    picture = read_photo(path)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_color_is_kept(tmp_path: Path) -> None:
    photo = colorful(20, 30)
    photo.save(tmp_path / "a.png")
    assert np.array_equal(pixels_of(tmp_path / "a.png"), np.asarray(photo))


def test_grey_and_black_and_white(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    assert np.array_equal(pixels_of(tmp_path / "grey.png"), np.repeat(ramp[..., None], 3, -1))
    checkers = Image.fromarray(((np.indices((9, 11)).sum(0) % 2) * 255).astype(np.uint8))
    checkers.convert("1").save(tmp_path / "bits.png")
    with Image.open(tmp_path / "bits.png") as opened:
        assert opened.mode == "1"
    assert np.array_equal(pixels_of(tmp_path / "bits.png")[..., 1], np.asarray(checkers))


def test_palette(tmp_path: Path) -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([200, 10, 20, 30, 210, 40, 50, 60, 220])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / "plain.png")
    assert pixels_of(tmp_path / "plain.png").tolist() == [[[200, 10, 20], [30, 210, 40], [50, 60, 220]]]
    picture.save(tmp_path / "one.png", transparency=1)
    assert pixels_of(tmp_path / "one.png").tolist() == [[[200, 10, 20], [255, 255, 255], [50, 60, 220]]]
    picture.save(tmp_path / "many.png", transparency=bytes([255, 0, 128]))
    seen = pixels_of(tmp_path / "many.png")[0]
    assert seen[:2].tolist() == [[200, 10, 20], [255, 255, 255]]
    assert np.abs(seen[2] - [152, 157, 237]).max() <= 2
    picture.save(tmp_path / "one.gif", transparency=1)
    assert pixels_of(tmp_path / "one.gif").tolist() == [[[200, 10, 20], [255, 255, 255], [50, 60, 220]]]


@pytest.mark.parametrize(("mode", "color"), [("RGBA", (200, 100, 0)), ("LA", (60,))])
@pytest.mark.parametrize("extension", ["png", "webp", "tif"])
def test_transparency_is_laid_over_white(tmp_path: Path, mode: str, color: tuple[int, ...], extension: str) -> None:
    if (mode, extension) == ("LA", "webp"):
        pytest.skip("WebP has no grey with transparency")
    path = tmp_path / f"a.{extension}"
    picture = Image.new(mode, (3, 2), (*color, 255))
    picture.putpixel((1, 0), (*color, 128))
    picture.putpixel((2, 0), (*color, 0))
    picture.save(path, **({"lossless": True, "exact": True} if extension == "webp" else {}))
    seen = pixels_of(path)[0]
    full = np.array(color if len(color) == 3 else color * 3)
    assert np.abs(seen[0] - full).max() <= 1
    assert np.abs(seen[1] - (full * 128 + 255 * 127) / 255).max() <= 2
    assert seen[2].tolist() == [255, 255, 255]


def test_transparent_color_of_rgb_and_grey(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2, 1), (9, 8, 7))
    picture.putpixel((0, 0), (1, 2, 3))
    picture.save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    assert pixels_of(tmp_path / "rgb.png").tolist() == [[[255, 255, 255], [9, 8, 7]]]
    grey = Image.new("L", (2, 1), 9)
    grey.putpixel((0, 0), 77)
    grey.save(tmp_path / "grey.png", transparency=77)
    assert pixels_of(tmp_path / "grey.png").tolist() == [[[255] * 3, [9] * 3]]


def test_cmyk(tmp_path: Path) -> None:
    photo = colorful(32, 32)
    inks = photo.convert("CMYK")
    for name in ("a.tif", "a.jpg"):  # Pillow writes CMYK JPEGs as Adobe does: inverted, with an Adobe marker
        inks.save(tmp_path / name, **({"quality": 100} if name.endswith("jpg") else {}))
        with Image.open(tmp_path / name) as opened:
            assert opened.mode == "CMYK"
        assert np.abs(pixels_of(tmp_path / name) - np.asarray(photo)).mean() < 3, name
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()


def test_sixteen_bit_grey_keeps_its_ramp(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 300).astype(np.uint16)[None].repeat(3, 0)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.mode.startswith("I")
    seen = pixels_of(tmp_path / "a.png")
    assert np.abs(seen[..., 0] - ramp / 257).max() <= 0.51
    assert (seen[..., 0] == seen[..., 2]).all()
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    assert np.array_equal(pixels_of(tmp_path / "a.tif"), seen)


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_tiff(tmp_path: Path, white: float) -> None:
    ramp = np.linspace(0, white, 50, dtype=np.float32)[None].repeat(2, 0)
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    with Image.open(tmp_path / "a.tif") as opened:
        assert opened.mode == "F"
    assert np.abs(pixels_of(tmp_path / "a.tif")[..., 1] - ramp / white * 255).max() <= 0.51


def test_float_tiff_with_nan_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match="not finite"):
        read_photo(tmp_path / "a.tif")


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tif"])
def test_first_frame_of_an_animation(tmp_path: Path, extension: str) -> None:
    frames = [Image.new("RGB", (12, 10), color) for color in ("red", "blue", "green")]
    path = tmp_path / f"a.{extension}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if extension == "webp" else {}))
    assert (pixels_of(path) == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, extension: str) -> None:
    upright = colorful(16, 24)
    # what a camera stores such that undoing the orientation shows the picture upright, from the EXIF definition
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{extension}"
    options = {"quality": 100, "subsampling": 0} if extension == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, **options)
    seen = read_photo(path)
    assert seen.size == upright.size
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(upright)).max() <= (12 if extension == "jpg" else 0)


def jpeg(path: Path) -> bytes:
    colorful(64, 64).save(path, format="JPEG")
    return path.read_bytes()


def png(path: Path) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, format="PNG")
    return path.read_bytes()


@pytest.mark.parametrize("write", [jpeg, png])
@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.9])
def test_truncated(tmp_path: Path, write: Callable[[Path], bytes], fraction: float) -> None:
    path = tmp_path / "a.img"
    whole = write(path)
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(PhotoError) as caught:
        read_photo(path)
    assert "a.img" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "webp", "tif", "bmp", "ico", "tga", "ppm", "avif"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, extension: str) -> None:
    """Whatever bytes were changed: a picture, or a PhotoError, and no warning."""
    if extension == "avif" and "avif" not in features.get_supported_modules():
        pytest.skip("Pillow was built without AVIF")
    path = tmp_path / f"a.{extension}"
    exif = Image.Exif()
    exif[0x0112] = 6
    colorful(24, 24).save(path, **({"exif": exif} if extension in ("jpg", "png", "webp", "tif") else {}))
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200 if extension == "avif" else 80):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 8)):
            damaged[rng.integers(min(len(damaged), 200))] = rng.integers(256)
        path.write_bytes(bytes(damaged[: rng.integers(1, len(damaged) + 1)] if rng.random() < 0.3 else damaged))
        try:
            picture = read_photo(path)
        except PhotoError as error:
            assert "\n" not in str(error)
        else:
            assert picture.mode == "RGB"


def test_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("this is no picture")
    with pytest.raises(PhotoError, match=r"text\.jpg.*not a picture"):
        read_photo(tmp_path / "text.jpg")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(PhotoError, match=r"empty\.png.*not a picture"):
        read_photo(tmp_path / "empty.png")
    with pytest.raises(PhotoError, match="is a folder"):
        read_photo(tmp_path)
    with pytest.raises(PhotoError, match="There is no photo at"):
        read_photo(tmp_path / "missing.png")


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(PhotoError):
        read_photo(tmp_path / ("x" * 300 + ".png"))
    with pytest.raises(PhotoError):
        read_photo(tmp_path / "a.png" / "b.png")
    with pytest.raises(PhotoError):
        read_photo(Path("a\0b.png"))


def test_absurd_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_claiming(100_000, 100_000))
    with pytest.raises(PhotoError, match=r"huge\.png.*(too large|megapixels)"):
        read_photo(path)
    with pytest.raises(PhotoError, match=r"huge\.png"):
        path.write_bytes(png_claiming(15_000, 14_000))
        read_photo(path)
    colorful(11, 10).save(path)
    monkeypatch.setattr(photos, "MOST_PIXELS", 110)
    assert read_photo(path).size == (10, 11)
    monkeypatch.setattr(photos, "MOST_PIXELS", 109)
    with pytest.raises(PhotoError, match="10 x 11"):
        read_photo(path)


def test_the_stated_limit_is_the_one_that_holds(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_claiming(10_000, photos.MOST_PIXELS // 10_000 + 1))
    with pytest.raises(PhotoError, match=r"megapixels\. Scale it down"):
        read_photo(path)


def test_large_photos_give_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    colorful(10, 10).save(tmp_path / "a.png")
    assert read_photo(tmp_path / "a.png").size == (10, 10)


def test_a_photo_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    colorful(4, 4).save(path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    if os.getuid() != 0:
        path.chmod(0)
    else:
        monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(PhotoError, match=r"cannot be read: .*Permission denied"):
        read_photo(path)


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
