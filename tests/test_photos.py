"""Photos are read as a person would see them."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from references.photos import colorful

from spadelens import photos
from spadelens.errors import PhotoError
from spadelens.photos import Preprocessing, read_photo, rgb_picture

RGB = Preprocessing((8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


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


def test_pictures_in_memory_are_seen_as_those_in_files(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (2, 1), (200, 100, 0, 0))
    keyed = Image.new("RGB", (2, 1), (1, 2, 3))
    keyed.info["transparency"] = (1, 2, 3)
    deep = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert np.asarray(rgb_picture(clear)).tolist() == [[[255] * 3] * 2]
    assert np.asarray(rgb_picture(keyed)).tolist() == [[[255] * 3] * 2]
    for picture in (deep, floats):
        assert np.asarray(rgb_picture(picture))[0, :, 0].tolist() == [0, 128, 255]
    plain = colorful(4, 5)
    assert rgb_picture(plain) is plain
    plain.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(PhotoError, match="Cannot use a picture"):
        rgb_picture(opened)


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
