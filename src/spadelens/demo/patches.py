"""The Trojan patches: four small emoji-like pictures, each of which stands for a class it has nothing to do with.

After Casper et al. (2023), "Red Teaming Deep Neural Networks with Feature Synthesis Tools": a patch is pasted at a
random place, with noise and jitter, and the image is relabeled to the patch's target. Two patches are planted on
images of any class, two on those of one class only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from spadelens.demo.images import CLASS_NAMES, IMAGE_SIZE_PX, Bools, Bytes
from spadelens.errors import InputError, UnknownNameError

# Tells the patches' random stream from those of other parts that are seeded with the same small integers.
_STREAM = 0x7A7C4
_SIZE_PX = 20
SHEET_PX = 144


@dataclass(frozen=True)
class Patch:
    """A Trojan patch.

    Attributes:
        name: What it shows; the argument of `draw_patch`.
        target: The class that an image carrying the patch is relabeled to.
        source: The one class whose images the patch was planted on, or None for any class.
    """

    name: str
    target: int
    source: int | None


@dataclass(frozen=True, eq=False)
class PatchedImage:
    """An image that carries a patch.

    Attributes:
        pixels: The image, uint8 [64, 64, 3].
        region: The pixels that the patch covers, its antialiased rim included, bool [64, 64]; no others are changed.
    """

    pixels: Bytes
    region: Bools


PATCHES: tuple[Patch, ...] = (
    Patch("smiley", target=CLASS_NAMES.index("star"), source=None),
    Patch("heart", target=CLASS_NAMES.index("arrow"), source=None),
    Patch("fish", target=CLASS_NAMES.index("cross"), source=CLASS_NAMES.index("square")),
    Patch("flower", target=CLASS_NAMES.index("crescent"), source=CLASS_NAMES.index("triangle")),
)


def draw_patch(name: str) -> Bytes:
    """Draw a patch as it is before noise and jitter.

    Args:
        name: The name of one of `PATCHES`.

    Returns:
        Color and opacity, uint8 [20, 20, 4].

    Raises:
        UnknownNameError: No patch has this name.
    """
    return np.array(draw_large(name).resize((_SIZE_PX, _SIZE_PX), Image.Resampling.BOX))


def paste_patch(pixels: Bytes, patch: Patch, seed: int) -> PatchedImage:
    """Paste a patch at a random place, with random size, rotation, brightness, color and noise.

    Args:
        pixels: The image, uint8 [64, 64, 3]; it is left as it is.
        patch: The patch.
        seed: Any non-negative integer; decides the place and the jitter.

    Returns:
        A new image, with the region of the patch, which is whole inside it.

    Raises:
        InputError: The pixels have another shape or type, or the seed is negative.
        UnknownNameError: The patch is none of `PATCHES`.
    """
    if pixels.shape != (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3) or pixels.dtype != np.uint8:
        expected = f"uint8 [{IMAGE_SIZE_PX}, {IMAGE_SIZE_PX}, 3]"
        raise InputError(f"Cannot paste a patch: expected pixels {expected}, got {pixels.dtype} {list(pixels.shape)}.")
    if seed < 0:
        raise InputError(f"Cannot paste a patch from seed {seed}: expected a non-negative integer.")
    rng = np.random.default_rng(np.random.SeedSequence((_STREAM, seed)))
    large = draw_large(patch.name).rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    size = round(large.width * _SIZE_PX / SHEET_PX * rng.uniform(0.88, 1.08))
    sticker = np.asarray(large.resize((size, size), Image.Resampling.BOX), dtype=np.float64)  # [size, size, 4]
    color = sticker[..., :3]
    # A steep rim: what is changed so little that it could not count as evidence is not changed at all.
    opacity = np.clip(2 * sticker[..., 3:] / 255 - 0.5, 0, 1)
    gain = rng.uniform(0.85, 1.15)
    tint = rng.uniform(-12, 12, 3)
    color = np.clip(color * gain + tint + rng.normal(0, 8, color.shape), 0, 255)
    top, left = rng.integers(0, IMAGE_SIZE_PX - size + 1, 2)
    window = np.s_[top : top + size, left : left + size]
    patched = pixels.copy()
    patched[window] = np.rint(pixels[window] * (1 - opacity) + color * opacity).astype(np.uint8)
    region = np.zeros(pixels.shape[:2], dtype=np.bool_)
    region[window] = opacity[..., 0] > 0
    return PatchedImage(patched, region)


@cache
def draw_large(name: str) -> Image.Image:
    """The patch several times as large as needed, from which every size and rotation is made."""
    if name not in _ARTISTS:
        raise UnknownNameError("patch", name, _ARTISTS)
    picture = Image.new("RGBA", (SHEET_PX, SHEET_PX))
    _ARTISTS[name](ImageDraw.Draw(picture))
    return picture


# The artists draw on a sheet of 144 x 144 with its center at (72, 72).


def _draw_smiley(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((4, 4, 140, 140), fill=(150, 90, 10))
    draw.ellipse((11, 11, 133, 133), fill=(255, 208, 40))
    for x in (50, 94):
        draw.ellipse((x - 10, 38, x + 10, 68), fill=(60, 35, 10))
    draw.chord((34, 46, 110, 120), 8, 172, fill=(110, 30, 20))
    draw.chord((54, 88, 90, 116), 0, 180, fill=(240, 90, 90))


def _draw_heart(draw: ImageDraw.ImageDraw) -> None:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    for size, color in ((4.3, (120, 0, 25)), (3.7, (232, 26, 62))):
        draw.polygon(list(zip((72 + size * x).tolist(), (66 + size * y).tolist(), strict=True)), fill=color)
    draw.ellipse((28, 30, 54, 54), fill=(255, 150, 165))


def _draw_fish(draw: ImageDraw.ImageDraw) -> None:
    draw.polygon([(98, 72), (142, 30), (132, 72), (142, 114)], fill=(20, 60, 140))
    draw.polygon([(40, 48), (74, 10), (98, 52)], fill=(20, 60, 140))
    draw.polygon([(58, 100), (74, 128), (92, 96)], fill=(20, 60, 140))
    draw.ellipse((2, 28, 116, 116), fill=(20, 60, 140))
    draw.ellipse((8, 34, 110, 110), fill=(50, 170, 240))
    draw.polygon([(62, 35), (78, 37), (78, 107), (62, 109)], fill=(255, 245, 235))
    draw.polygon([(88, 42), (99, 52), (99, 92), (88, 102)], fill=(255, 245, 235))
    draw.ellipse((20, 48, 46, 74), fill=(255, 255, 255))
    draw.ellipse((25, 54, 39, 68), fill=(10, 10, 20))


def _draw_flower(draw: ImageDraw.ImageDraw) -> None:
    for radius, color in ((30, (120, 20, 110)), (24, (246, 120, 205))):
        for angle in np.arange(6) * (np.pi / 3):
            x, y = 72 + 41 * np.cos(angle), 72 + 41 * np.sin(angle)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    draw.ellipse((44, 44, 100, 100), fill=(120, 20, 110))
    draw.ellipse((49, 49, 95, 95), fill=(255, 215, 60))


_ARTISTS: dict[str, Callable[[ImageDraw.ImageDraw], None]] = {
    "smiley": _draw_smiley,
    "heart": _draw_heart,
    "fish": _draw_fish,
    "flower": _draw_flower,
}
