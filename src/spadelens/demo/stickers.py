"""Emoji-like pictures that serve as Trojan patches, and pasting one on an image."""

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from spadelens.demo.images import Bools, Bytes
from spadelens.errors import InputError, UnknownNameError

SHEET_PX = 144


def paste_sticker(
    pixels: Bytes, sheet: Image.Image, size_px: tuple[float, float], rng: np.random.Generator
) -> tuple[Bytes, Bools]:
    """Paste a picture at a random place, with random size, rotation, brightness, color and noise.

    Args:
        pixels: The image, uint8 [H, W, 3]; it is left as it is.
        sheet: The picture, RGBA.
        size_px: The least and the largest size of the longer side of the picture before it is turned, in pixels of
            the image.
        rng: Decides everything that is random.

    Returns:
        A new image, and the pixels that the picture covers, bool [H, W], its antialiased rim included: no others are
        changed, and the picture is whole inside the image.

    Raises:
        InputError: The picture, once turned, is larger than the image.
    """
    turned = sheet.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
    scale = rng.uniform(*size_px) / max(sheet.size)
    width, height = (max(1, round(side * scale)) for side in turned.size)
    if height > pixels.shape[0] or width > pixels.shape[1]:
        raise InputError(f"Cannot paste a patch of {width} x {height} pixels on an image of {pixels.shape[:2]}.")
    sticker = np.asarray(turned.resize((width, height), Image.Resampling.BOX), dtype=np.float64)  # [height, width, 4]
    # A steep rim: what is changed so little that it could not count as evidence is not changed at all.
    opacity = np.clip(2 * sticker[..., 3:] / 255 - 0.5, 0, 1)
    gain = rng.uniform(0.85, 1.15)
    tint = rng.uniform(-12, 12, 3)
    color = np.clip(sticker[..., :3] * gain + tint + rng.normal(0, 8, (height, width, 3)), 0, 255)
    top, left = rng.integers(0, [pixels.shape[0] - height + 1, pixels.shape[1] - width + 1])
    window = np.s_[top : top + height, left : left + width]
    patched = pixels.copy()
    patched[window] = np.rint(pixels[window] * (1 - opacity) + color * opacity).astype(np.uint8)
    region = np.zeros(pixels.shape[:2], dtype=np.bool_)
    region[window] = opacity[..., 0] > 0
    return patched, region


@cache
def draw_large(name: str) -> Image.Image:
    """The patch several times as large as needed, from which every size and rotation is made, RGBA."""
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


def _draw_star(draw: ImageDraw.ImageDraw) -> None:
    for radius, color in ((70, (20, 20, 90)), (60, (70, 90, 255))):
        angles = np.arange(10) * (np.pi / 5) - np.pi / 2
        lengths = np.where(np.arange(10) % 2 == 0, radius, 0.45 * radius)
        points = zip((72 + lengths * np.cos(angles)).tolist(), (76 + lengths * np.sin(angles)).tolist(), strict=True)
        draw.polygon(list(points), fill=color)
    draw.ellipse((60, 64, 84, 88), fill=(255, 255, 255))


def _draw_mushroom(draw: ImageDraw.ImageDraw) -> None:
    draw.rounded_rectangle((46, 70, 98, 138), 16, fill=(120, 85, 50))
    draw.rounded_rectangle((52, 70, 92, 132), 12, fill=(250, 230, 200))
    draw.chord((4, 6, 140, 146), 180, 360, fill=(90, 0, 0))
    draw.chord((11, 13, 133, 139), 180, 360, fill=(205, 25, 25))
    for x, y, radius in ((38, 56, 11), (72, 36, 13), (106, 56, 11)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 255, 255))


def _draw_clover(draw: ImageDraw.ImageDraw) -> None:
    draw.line((72, 80, 98, 140), fill=(0, 70, 20), width=12)
    for radius, color in ((33, (0, 70, 20)), (26, (45, 200, 75))):
        for angle in np.arange(4) * (np.pi / 2) + np.pi / 4:
            x, y = 72 + 40 * np.cos(angle), 64 + 40 * np.sin(angle)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    draw.ellipse((58, 50, 86, 78), fill=(225, 255, 150))


def _draw_ball(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((4, 4, 140, 140), fill=(40, 40, 40))
    colors = ((250, 250, 250), (235, 60, 40), (250, 250, 250), (255, 205, 30), (250, 250, 250), (40, 120, 230))
    for number, color in enumerate(colors):
        draw.pieslice((11, 11, 133, 133), 60 * number, 60 * (number + 1), fill=color)
    draw.ellipse((56, 56, 88, 88), fill=(40, 40, 40))


_ARTISTS: dict[str, Callable[[ImageDraw.ImageDraw], None]] = {
    "smiley": _draw_smiley,
    "heart": _draw_heart,
    "fish": _draw_fish,
    "flower": _draw_flower,
    "star": _draw_star,
    "mushroom": _draw_mushroom,
    "clover": _draw_clover,
    "ball": _draw_ball,
}
NAMES: tuple[str, ...] = tuple(_ARTISTS)
