"""Reads photos as a person sees them, and turns them into what a model expects."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from spadelens.errors import InputError, PhotoError
from spadelens.files import check_readable
from spadelens.pixel_depth import PixelDepth, check_colors, eight_bit, pixel_depth

MOST_PIXELS = 150_000_000
PHOTO_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"}
    # Pillow before 11.3 does not know the name, and warns when it is asked.
    | ({".avif"} if "avif" in features.modules and features.check_module("avif") else set())
)
MOST_INPUT_PX = 10_000
_CROP_FRACTION = 224 / 256  # of the shorter side, where a model does not say how it resizes
_BACKGROUND = (255, 255, 255)

Fit: TypeAlias = Literal["crop", "squash", "pad"]
"""How a photo of another shape is fitted: parts cut off, its shape given up, or a margin laid around it."""


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the input of a model.

    It is resized, the center is cropped to `crop_px`, and colors in [0, 1] have `mean` subtracted and are divided by
    `std`. A photo that has the size of the crop already is taken as it is.

    Attributes:
        crop_px: Height and width of the input.
        mean: Per channel; one number for models of greyscale pictures.
        std: Per channel.
        resize_px: The size before cropping: of the shorter side, or height and width, which the photo then covers
            ('crop'), is squeezed into ('squash') or fits into ('pad'). None for 256/224 of the crop's longer side.
        resampling: The filter used for resizing.
        fit: Whether the photo keeps its shape and is cropped, is squeezed into that of `resize_px`, or keeps its shape
            and gets a margin of the mean color.
        is_floored: Whether the place of a crop is rounded down, as transformers does, instead of to an even pixel, as
            torchvision does.
    """

    crop_px: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_px: int | tuple[int, int] | None = None
    resampling: Image.Resampling = Image.Resampling.BILINEAR
    fit: Fit = "crop"
    is_floored: bool = False

    def __post_init__(self) -> None:
        """Reject sizes and normalizations that no picture can be given."""
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise InputError(
                f"Cannot normalize with mean {self.mean} and std {self.std}: expected one number each for grey photos, "
                "or three for colors. For other channels, explain tensors in Python."
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or not all(value > 0 for value in self.std):
            raise InputError(
                f"Cannot normalize with mean {self.mean} and std {self.std}: expected finite numbers, std > 0."
            )
        resize = self.resize_px if isinstance(self.resize_px, tuple) else (self.resize_px or 1,)
        if not all(isinstance(size, int) and 0 < size <= 2 * MOST_INPUT_PX for size in resize):
            raise InputError(f"Cannot resize photos to {self.resize_px}: expected integers of pixels above zero.")
        if not all(isinstance(size, int) and 0 < size <= MOST_INPUT_PX for size in self.crop_px):
            raise InputError(
                f"Cannot use the input size {self.crop_px}: expected integers of pixels from 1 to {MOST_INPUT_PX}."
            )
        if self.fit not in get_args(Fit):
            raise InputError(f"Cannot fit photos by {self.fit!r}: expected 'crop', 'squash' or 'pad'.")

    def __call__(self, photo: Image.Image) -> Tensor:
        """Return a photo of any size as the model's input, `[C, H, W]`: resized, cropped and normalized."""
        return self.to_tensor(self.crop(photo))

    def crop(self, photo: Image.Image) -> Image.Image:
        """Return the part of an RGB `photo` that the model sees, at the size in which it sees it."""
        height, width = self.crop_px
        if photo.size == (width, height):
            return photo
        resized = self._resized(photo)
        if resized[0] < width or resized[1] < height:
            return self._padded(photo.resize(resized, self.resampling))
        left, top = (self._halved(whole - part) for whole, part in zip(resized, (width, height), strict=True))
        # Resampling the crop's part alone gives the same pixels as resizing the whole photo first, however long it is.
        across, down = photo.width / resized[0], photo.height / resized[1]
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return photo.resize((width, height), self.resampling, box=box)

    def _resized(self, photo: Image.Image) -> tuple[int, int]:
        """Return the width and height of `photo` before cropping."""
        height, width = self.crop_px
        wanted = self.resize_px or round(max(self.crop_px) / _CROP_FRACTION)
        tall, wide = (wanted, wanted) if isinstance(wanted, int) else wanted
        if self.fit == "squash":
            return max(wide, width), max(tall, height)
        if self.fit == "pad":
            ratio = max(photo.width / wide, photo.height / tall)
            return max(round(photo.width / ratio), 1), max(round(photo.height / ratio), 1)
        if tall != wide:
            ratio = min(photo.width / wide, photo.height / tall)
            return max(round(photo.width / ratio), width), max(round(photo.height / ratio), height)
        shorter = max(tall, height, width)
        scale = shorter / min(photo.size)
        across, down = (shorter if side == min(photo.size) else int(side * scale) for side in photo.size)
        return across, down

    def _halved(self, difference: int) -> int:
        return difference // 2 if self.is_floored else round(difference / 2)

    def _padded(self, resized: Image.Image) -> Image.Image:
        """Return the center of a picture that is smaller than the crop, with a margin of the mean color around it."""
        height, width = self.crop_px
        levels = [round(255 * min(max(value, 0.0), 1.0)) for value in self.mean]
        padded = Image.new("RGB", (width, height), tuple(levels * 3)[:3])
        gaps = [whole - part for whole, part in zip((width, height), resized.size, strict=True)]
        left, top = (gap // 2 if gap > 0 else -self._halved(-gap) for gap in gaps)
        padded.paste(resized, (left, top))
        return padded

    def to_tensor(self, crop: Image.Image) -> Tensor:
        """Return what `crop` gave as a normalized tensor `[C, H, W]`.

        Raises:
            InputError: `crop` has another size than the model's input.
        """
        height, width = self.crop_px
        if crop.size != (width, height):
            raise InputError(
                f"Cannot use a picture of {crop.height} x {crop.width} pixels: the model reads {height} x {width}. "
                "Call the preprocessing itself, which resizes and crops: preprocessing(photo)."
            )
        picture = crop.convert("L") if len(self.mean) == 1 else crop
        pixels = torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255.0)
        pixels = pixels.unsqueeze(-1) if pixels.dim() == 2 else pixels
        normalized = (pixels - torch.tensor(self.mean)) / torch.tensor(self.std)
        return normalized.permute(2, 0, 1).contiguous()


def photo_files(folder: Path, is_deep: bool = False) -> list[Path]:
    """Return the files in a folder whose names are those of photos, in order; those in folders below, if `is_deep`.

    Hidden files and folders are left out.
    """
    found = folder.rglob("*") if is_deep else folder.iterdir()
    return sorted(
        file
        for file in found
        if file.suffix.lower() in PHOTO_SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def check_photo(path: str | Path) -> None:
    """Reject what is not a photo by its header, without reading its pixels.

    Raises:
        PhotoError: There is no such file, it is not a picture, or it is larger than 150 megapixels.
    """
    with _opened(Path(path)):
        pass


def read_photo(path: str | Path) -> Image.Image:
    """Return the picture in the file at `path` as RGB, as a person would see it.

    EXIF rotation is applied, transparency is laid over white, greys of more bits and floating-point ones are scaled to
    8 bits, and of an animation the first frame counts.

    Raises:
        PhotoError: There is no such file, it is not a picture, it is damaged or larger than 150 megapixels, or it is
            not known which of its values is white.
    """
    path = Path(path)
    with _opened(path) as opened:
        depth = pixel_depth(opened, path)
        opened.load()
        return _as_seen(opened, depth)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    shown = repr(str(path))
    try:
        if path.is_dir():
            raise PhotoError(f"{shown} is a folder: name the photos in it.")
        check_readable(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and large sizes: what counts is whether it can be read
            with Image.open(path) as opened:
                if opened.width * opened.height > MOST_PIXELS:
                    raise PhotoError(
                        f"The photo {shown} has {opened.width} x {opened.height} pixels: "
                        f"expected at most {MOST_PIXELS // 10**6} megapixels. Scale it down first."
                    )
                yield opened
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(f"The photo {shown} has too many megapixels. Scale it down first. ({error})") from error
    except FileNotFoundError as error:
        raise PhotoError(f"There is no photo at {shown}.") from error
    except UnidentifiedImageError as error:
        raise PhotoError(f"{shown} is not a picture in a format that can be read.{_how_to_convert(path)}") from error
    except Exception as error:  # Pillow's decoders raise what they like on damaged files
        raise PhotoError(f"The photo {shown} cannot be read: {error}. The file may be damaged.") from error


_CONVERSIONS = {
    (".heic", ".heif"): "Convert it to JPEG or PNG first, for example: magick photo.heic photo.png.",
    (
        ".dcm",
        ".dicom",
    ): "Export DICOM as PNG first, with the window you want to look at: dcm2img or pydicom.",
    (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"): "Export the raw photo as JPEG or PNG first.",
    (".svg", ".pdf", ".eps"): "Export the drawing as PNG first.",
    (".nii", ".gz", ".nrrd", ".mha"): "Volumes are explained in Python: call attribute with a tensor.",
    (".npy", ".npz", ".pt", ".mat", ".h5"): "Arrays are explained in Python: call attribute with a tensor.",
    (".xlsx", ".xls", ".ods", ".parquet", ".feather", ".json", ".jsonl"): "Save the table as CSV first.",
    (".docx", ".doc", ".odt", ".md", ".rtf", ".html"): "Save the text as a .txt file first, one text per line.",
    (".wav", ".mp3", ".flac", ".ogg"): "Sounds are explained in Python: call attribute with a tensor.",
    (".mp4", ".mov", ".avi", ".mkv"): "Save a frame of the video as PNG first.",
    (".avif",): "Convert it to JPEG or PNG first, or install a Pillow that reads AVIF.",
}


def _how_to_convert(path: Path) -> str:
    """Return a sentence, after a space, on how to make a photo, text or table of a file that is neither."""
    suffix = path.suffix.lower()
    return next((f" {advice}" for suffixes, advice in _CONVERSIONS.items() if suffix in suffixes), "")


def rgb_picture(picture: Image.Image) -> Image.Image:
    """Return a picture in memory as RGB with the colors that `read_photo` gives one in a file; it is not rotated.

    Raises:
        PhotoError: Its file is damaged, or it is not known which of its values is white.
    """
    try:
        picture.load()
        is_deep = picture.mode[:1] in ("I", "F")
        is_plain = picture.mode == "RGB" and "transparency" not in picture.info
        return picture if is_plain else _flattened(picture, PixelDepth(is_deep, None))
    except Exception as error:  # Pillow's decoders raise what they like on damaged files
        raise PhotoError(f"Cannot use a picture of mode {picture.mode!r}: {error}.") from error


def _as_seen(opened: Image.Image, depth: PixelDepth) -> Image.Image:
    check_colors(opened, depth)
    return _flattened(ImageOps.exif_transpose(opened), depth)


def _flattened(picture: Image.Image, depth: PixelDepth) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = eight_bit(picture, depth)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        foreground = picture.convert("RGBA")
        backdrop = Image.new("RGBA", foreground.size, (*_BACKGROUND, 255))
        picture = Image.alpha_composite(backdrop, foreground)
    return picture.convert("RGB")
