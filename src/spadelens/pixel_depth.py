"""How many bits the values of a picture use: 12-bit pictures lie in 16-bit files, and would become almost black."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 258, 281  # TIFF tags
_LEAST_USED = 2**14  # of 2^16: values below that leave the highest two bits unused


@dataclass(frozen=True)
class PixelDepth:
    """What a file says of its values.

    Attributes:
        is_deep: Whether it stores more than 8 bits for each value.
        white: The value that is white; None where the file does not say.
    """

    is_deep: bool
    white: int | None


def pixel_depth(opened: Image.Image, path: Path) -> PixelDepth:
    """Return what a picture's file says of its values; to be asked before its pixels are loaded."""
    is_deep = opened.mode[:1] in ("I", "F") or (opened.format in ("PNG", "TIFF") and ";16" in _raw_mode(opened))
    white = None
    if opened.format == "PNG" and is_deep:
        white = _png_white(path)
    elif opened.format == "TIFF" and opened.mode != "F":
        white = _tiff_white(opened)
    elif opened.format in ("PPM", "JPEG2000", "SGI"):  # Pillow scales them by what the file says
        white = 65535
    return PixelDepth(is_deep, white)


def _raw_mode(opened: Image.Image) -> str:
    tiles = getattr(opened, "tile", None) or [("", None, 0, "")]
    arguments = tiles[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def eight_bit(picture: Image.Image, depth: PixelDepth) -> Image.Image:
    """Return greys of more than 8 bits, or floating-point ones (1.0 is white, or 255), with 8 bits.

    Raises:
        ValueError: The values are not finite, or it is not known which of them is white.
    """
    values = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite")
    lowest, highest = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if picture.mode == "F" and lowest >= 0 and highest <= 255:
        white = 1.0 if highest <= 1.0 else 255.0
    else:
        white = _white(lowest, highest, depth)
    return Image.fromarray(np.clip(np.rint(values / white * 255.0), 0, 255).astype(np.uint8))


def check_colors(picture: Image.Image, depth: PixelDepth) -> None:
    """Reject colors of a 16-bit file, of which only the high bytes were read, where these are almost black.

    Raises:
        ValueError: They are.
    """
    if depth.is_deep and not picture.mode.startswith(("I", "F")):
        highest = max(high for _, high in _extrema(picture))
        if 0 < highest < _LEAST_USED // 256 or (depth.white is not None and depth.white < 65535):
            raise ValueError(_unknown_white(256 * highest))


def _extrema(picture: Image.Image) -> list[tuple[float, float]]:
    colors = picture.convert("RGB").getextrema()
    return [(float(low), float(high)) for low, high in colors]  # type: ignore[misc]


def _white(lowest: float, highest: float, depth: PixelDepth) -> float:
    if lowest < 0 or highest > 65535:
        raise ValueError(
            f"its values reach from {lowest:g} to {highest:g}, and it is not known which are black and white. Convert "
            "it to 8 bits first"
        )
    if depth.white is not None and highest <= depth.white:
        return float(depth.white)
    if 0 < highest < _LEAST_USED:
        raise ValueError(_unknown_white(highest))
    return 65535.0


def _unknown_white(highest: float) -> str:
    return (
        f"its values have 16 bits but none is above {highest:g}, and the file does not say which value is white: it "
        "would be almost black. Scale it to 8 bits first"
    )


def _png_white(path: Path) -> int | None:
    """Return the white that the significant bits (sBIT) of a 16-bit PNG say."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"sBIT" and 0 < length <= 4:
                bits = max(file.read(length))
                # Encoders shift values to the high bits, as the standard says, or leave them in the low ones.
                return 2**bits - 1 if 8 < bits < 16 else None
            if name in (b"IDAT", b"IEND"):
                return None
            file.seek(length + 4, 1)
    return None


def _tiff_white(opened: Image.Image) -> int | None:
    tags = getattr(opened, "tag_v2", {})
    try:
        highest, bits = tags.get(_MAX_SAMPLE_VALUE), tags.get(_BITS_PER_SAMPLE)
        if highest is not None:
            return int(highest[0] if isinstance(highest, tuple) else highest) or None
        bits = int(bits[0] if isinstance(bits, tuple) else bits or 0)
    except (TypeError, ValueError, IndexError):
        return None
    return 2**bits - 1 if 8 < bits < 16 else None
