"""Photo files that are something else, that are deeper than 8 bits, or that are many."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from spadelens import load_model
from spadelens.errors import InputError, PhotoError
from spadelens.photos import PHOTO_SUFFIXES, Preprocessing, check_photo, read_photo
from spadelens.tasks import inputs
from spadelens.tasks.inputs import make_subjects, read_inputs


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def write_png16(path: Path, values: np.ndarray, bits: int | None = None) -> None:
    """Write 16-bit greys `[H, W]` or colors `[H, W, 3]`, with an sBIT chunk if `bits` says what is significant."""
    channels = 1 if values.ndim == 2 else 3
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0 if channels == 1 else 2, 0, 0, 0)
    significant = b"" if bits is None else chunk(b"sBIT", bytes([bits] * channels))
    body = chunk(b"IHDR", head) + significant + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


RAMP = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
EXPECTED = np.rint(RAMP / 4095 * 255)


def test_12_bit_greys_are_scaled_where_the_file_says_so(tmp_path: Path) -> None:
    write_png16(tmp_path / "low.png", RAMP, bits=12)
    write_png16(tmp_path / "high.png", RAMP << 4, bits=12)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[281] = 4095  # MaxSampleValue
    Image.fromarray(RAMP).save(tmp_path / "x.tif", tiffinfo=tags)
    for name in ("low.png", "high.png", "x.tif"):
        seen = np.asarray(read_photo(tmp_path / name))[:, :, 0]
        assert np.abs(seen - EXPECTED).max() <= 1, name


@pytest.mark.parametrize("name", ["x.png", "x.tif", "rgb.png", "float.tif", "negative.tif", "large.tif"])
def test_values_of_unknown_white_are_refused(tmp_path: Path, name: str) -> None:
    if name == "rgb.png":
        write_png16(tmp_path / name, np.stack([RAMP] * 3, axis=-1))
    elif name == "x.png":
        write_png16(tmp_path / name, RAMP)
    else:
        change = {"x.tif": RAMP, "float.tif": RAMP.astype(np.float32), "negative.tif": RAMP.astype(np.int32) - 1000}
        Image.fromarray(change.get(name, RAMP.astype(np.int32) * 100)).save(tmp_path / name)
    with pytest.raises(PhotoError, match="8 bits first"):
        read_photo(tmp_path / name)


def test_16_bit_greys_and_dark_8_bit_ones_are_read_as_they_are(tmp_path: Path) -> None:
    write_png16(tmp_path / "x.png", RAMP * 16)
    assert np.abs(np.asarray(read_photo(tmp_path / "x.png"))[:, :, 0] - RAMP * 16 / 65535 * 255).max() <= 1
    write_png16(tmp_path / "black.png", RAMP * 0)
    Image.fromarray((RAMP // 256).astype(np.uint8)).save(tmp_path / "dark.png")
    for name in ("black.png", "dark.png"):
        assert np.asarray(read_photo(tmp_path / name)).max() <= 15


@pytest.mark.parametrize(
    ("name", "advice"),
    [("a.heic", "JPEG or PNG"), ("a.dcm", "PNG"), ("a.xlsx", "CSV"), ("a.npy", "in Python"), ("a.NEF", "raw")],
)
def test_other_formats_get_advice(tmp_path: Path, name: str, advice: str) -> None:
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(PhotoError, match=advice):
        read_photo(tmp_path / name)


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.png")
    for read in (read_photo, check_photo):
        with pytest.raises(PhotoError, match="a pipe"):
            read(tmp_path / "p.png")


def test_photos_are_read_one_at_a_time_and_only_when_the_model_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        Image.new("RGB", (64, 48), (number, 0, 0)).save(tmp_path / f"{2 - number}.png")
    (tmp_path / "notes.txt").write_text("not a photo")
    given = read_inputs([tmp_path])
    assert [one.file.name for one in given] == ["0.png", "1.png", "2.png"]
    assert not any(isinstance(value, Image.Image) for one in given for value in vars(one).values())
    files: list[Path] = []
    monkeypatch.setattr(inputs, "read_photo", lambda file: files.append(file) or read_photo(file))
    subjects = make_subjects(load_model("demo", "cpu"), given)
    assert [file.name for file in files] == ["0.png", "1.png", "2.png"] and len(subjects) == 3


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no photos in the folder"):
        read_inputs([tmp_path])


def test_avif_is_a_photo() -> None:
    from PIL import features

    assert (".avif" in PHOTO_SUFFIXES) == ("avif" in features.get_supported_modules())


def test_one_call_makes_the_input_of_a_photo_of_any_size(tmp_path: Path) -> None:
    loaded = load_model("demo", "cpu")
    photo = Image.radial_gradient("L").convert("RGB")
    photo.save(tmp_path / "p.png")
    preprocessing = loaded.preprocessing
    expected = preprocessing.to_tensor(preprocessing.crop(photo))
    for sample in (preprocessing(photo), loaded.sample(photo), loaded.sample(tmp_path / "p.png")):
        assert torch.equal(sample, expected)
    with pytest.raises(InputError, match=r"preprocessing\(photo\)"):
        preprocessing.to_tensor(photo)


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": (float("nan"),) * 3},
        {"std": (float("inf"), 1.0, 1.0)},
        {"std": (-1.0, 1.0, 1.0)},
        {"mean": (0.5,) * 4, "std": (0.5,) * 4},
        {"resize_px": -3},
        {"resize_px": (20, -1)},
        {"crop_px": (0, 3)},
    ],
)
def test_numbers_that_no_preprocessing_has_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Preprocessing(**{"crop_px": (8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, **settings})  # type: ignore[arg-type]
