"""Images drawn from a label and a seed: one object of a known shape among clutter.

Only the outline of the object decides the class. Its colors, texture, size, place, rotation and lighting, the
background and the distractors are all drawn from distributions that do not depend on the label.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from spadelens.errors import InputError

IMAGE_SIZE_PX = 64
CLASS_NAMES: tuple[str, ...] = (
    "disc",
    "ring",
    "square",
    "triangle",
    "cross",
    "star",
    "crescent",
    "hexagon",
    "arrow",
    "bolt",
)

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Bytes: TypeAlias = npt.NDArray[np.uint8]

# Tells the images' random stream from those of other parts that are seeded with the same small integers.
_STREAM = 0x5BADE
_SUPERSAMPLING = 4
_MIN_RADIUS_PX, _MAX_RADIUS_PX = 11.0, 21.0
_TEXTURES = ("flat", "gradient", "radial", "stripes", "checkers", "dots", "blobs", "smooth", "grain")
_DISTRACTORS = ("blob", "bar", "curve", "speckles")


@dataclass(frozen=True, eq=False)
class DemoImage:
    """An image whose class is known, and known to be decided in one region.

    Attributes:
        pixels: The image, uint8 [64, 64, 3].
        region: The pixels of the object that decides the class, bool [64, 64]. Pixels that something in front of the
            object hides are left out.
        label: Index into `CLASS_NAMES`.
    """

    pixels: Bytes
    region: Bools
    label: int


def draw_image(label: int, seed: int) -> DemoImage:
    """Draw the image that belongs to a label and a seed.

    The same arguments give the same image in every process. Across versions of numpy and Pillow, and across
    processors, single pixels may differ by a level.

    Args:
        label: Index into `CLASS_NAMES`.
        seed: Any non-negative integer; images of one label differ by it.

    Returns:
        The image, with the region of its object.

    Raises:
        InputError: There is no such label, or the seed is negative.
    """
    if not 0 <= label < len(CLASS_NAMES):
        raise InputError(f"Cannot draw label {label}: expected 0 to {len(CLASS_NAMES) - 1}, see CLASS_NAMES.")
    if seed < 0:
        raise InputError(f"Cannot draw from seed {seed}: expected a non-negative integer.")
    rng = np.random.default_rng(np.random.SeedSequence((_STREAM, label, seed)))
    background, paint = _draw_palettes(rng)
    canvas = _draw_texture(rng, background)
    for _ in range(rng.integers(1, 5)):
        canvas = _blend(canvas, _draw_distractor(rng), _draw_texture(rng, _draw_contrasting(rng, paint)))
    coverage = _draw_object(rng, CLASS_NAMES[label])
    if rng.random() < 0.4:
        canvas = canvas * (1 - _cast_shadow(rng, coverage))[..., None]
    canvas = _blend(canvas, coverage, _draw_texture(rng, paint))
    if rng.random() < 0.35:
        strand = _draw_curve(rng, width_px=rng.uniform(1.0, 2.2))
        canvas = _blend(canvas, strand, _draw_texture(rng, _draw_contrasting(rng, paint)))
        coverage = coverage * (1 - strand)
    return DemoImage(_expose(rng, canvas), coverage >= 0.5, label)


def _draw_object(rng: np.random.Generator, name: str) -> Floats:
    """Place the outline of a class at random, whole inside the image; returns its coverage [64, 64] in [0, 1]."""
    radius = rng.uniform(_MIN_RADIUS_PX, _MAX_RADIUS_PX)
    stretch = np.exp(rng.uniform(-0.14, 0.14))
    angle = rng.uniform(0, 2 * np.pi)
    mirror = rng.choice((-1.0, 1.0))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = radius * turn @ np.diag((stretch, mirror / stretch))
    outlines = [points @ matrix.T for points in _OUTLINES[name]]
    reach = np.abs(outlines[0]).max(axis=0) + 1  # one pixel of background left on every side
    center = rng.uniform(reach, IMAGE_SIZE_PX - reach)
    sheet, draw = _open_sheet()
    draw.polygon(_to_sheet(outlines[0] + center), fill=255)
    for hole in outlines[1:]:
        draw.polygon(_to_sheet(hole + center), fill=0)
    return _to_coverage(sheet)


def _draw_distractor(rng: np.random.Generator) -> Floats:
    """Coverage [64, 64] of something that has the outline of no class."""
    kind = rng.choice(_DISTRACTORS)
    if kind == "curve":
        return _draw_curve(rng, width_px=rng.uniform(1.0, 3.5))
    sheet, draw = _open_sheet()
    center = rng.uniform(0, IMAGE_SIZE_PX, 2)
    if kind == "blob":
        angles = _circle(48)
        waves = [
            depth * np.cos(order * angles + rng.uniform(0, 2 * np.pi))
            for order, depth in ((2, rng.uniform(0.22, 0.38)), (3, rng.uniform(0.1, 0.25)), (5, rng.uniform(0, 0.15)))
        ]
        radii = rng.uniform(5, 13) * (1 + np.sum(waves, axis=0))
        draw.polygon(_to_sheet(center + radii[:, None] * _unit(angles)), fill=255)
    elif kind == "bar":
        along, across = _unit(rng.uniform(0, 2 * np.pi) + np.array([0, np.pi / 2]))
        along, across = along * rng.uniform(9, 30), across * rng.uniform(0.8, 2.2)
        corners = np.array([along + across, along - across, -along - across, -along + across])
        draw.polygon(_to_sheet(center + corners), fill=255)
    else:
        for _ in range(rng.integers(4, 16)):
            x, y = np.clip(center + rng.normal(0, 10, 2), 0, IMAGE_SIZE_PX) * _SUPERSAMPLING
            r = rng.uniform(0.7, 2.0) * _SUPERSAMPLING
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
    return _to_coverage(sheet)


def _draw_curve(rng: np.random.Generator, width_px: float) -> Floats:
    """Coverage [64, 64] of a wavy line across the image."""
    start, stop = rng.uniform(-8, IMAGE_SIZE_PX + 8, (2, 2))
    steps = np.linspace(0, 1, 40)[:, None]
    sideways = (stop - start)[::-1] * np.array([-1, 1])
    bend = rng.uniform(-0.25, 0.25) * np.sin(np.pi * rng.integers(1, 4) * steps)
    sheet, draw = _open_sheet()
    points = start + (stop - start) * steps + sideways * bend
    draw.line(_to_sheet(points), fill=255, width=round(width_px * _SUPERSAMPLING), joint="curve")
    return _to_coverage(sheet)


def _draw_texture(rng: np.random.Generator, palette: Floats) -> Floats:
    """A pattern between the two colors of a palette [2, 3]; returns [64, 64, 3]."""
    pattern = _draw_pattern(rng, rng.choice(_TEXTURES))
    return _blend(palette[0], pattern, palette[1])


def _draw_pattern(rng: np.random.Generator, kind: str) -> Floats:
    """A pattern [64, 64] in [0, 1] of the named kind."""
    if kind == "flat":
        return np.zeros((IMAGE_SIZE_PX, IMAGE_SIZE_PX))
    if kind == "grain":
        return rng.random((IMAGE_SIZE_PX, IMAGE_SIZE_PX))
    if kind in ("smooth", "blobs"):
        cells = rng.random((rng.integers(3, 9),) * 2).astype(np.float32)
        enlarged = Image.fromarray(cells).resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BICUBIC)
        field = np.clip(np.asarray(enlarged, dtype=np.float64), 0, 1)
        return field if kind == "smooth" else _sharpen(field - 0.5, 12)
    angle = rng.uniform(0, 2 * np.pi)
    offset_x, offset_y = rng.uniform(-32, 32, 2)
    y, x = np.mgrid[:IMAGE_SIZE_PX, :IMAGE_SIZE_PX] - (IMAGE_SIZE_PX - 1) / 2
    u = np.cos(angle) * x + np.sin(angle) * y
    if kind == "gradient":
        gradient: Floats = np.clip(0.5 + u / IMAGE_SIZE_PX, 0, 1)
        return gradient
    if kind == "radial":
        radial: Floats = np.clip(np.hypot(x - offset_x, y - offset_y) / 60, 0, 1)
        return radial
    v = np.cos(angle) * y - np.sin(angle) * x
    period = rng.uniform(5, 18)
    wave_u, wave_v = np.sin(2 * np.pi * (u + offset_x) / period), np.sin(2 * np.pi * (v + offset_y) / period)
    if kind == "stripes":
        return _sharpen(wave_u, 3)
    if kind == "checkers":
        return _sharpen(wave_u * wave_v, 6)
    return _sharpen(wave_u + wave_v - 0.9, 3)


def _draw_palettes(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Two colors for the background and two for the object, that can be told apart."""
    background = rng.uniform(0.08, 0.95) + rng.uniform(-0.35, 0.35, 3) + rng.uniform(-0.18, 0.18, (2, 3))
    return np.clip(background, 0, 1), _draw_contrasting(rng, np.clip(background, 0, 1))


def _draw_contrasting(rng: np.random.Generator, other: Floats) -> Floats:
    """Two related colors [2, 3], each of them well away from both of another palette [2, 3]."""
    for _ in range(50):
        shade = rng.uniform(0.08, 0.95) + rng.uniform(-0.4, 0.4, 3) + rng.uniform(-0.2, 0.2, (2, 3))
        palette = np.clip(shade, 0, 1)
        if np.linalg.norm(palette[:, None] - other[None], axis=-1).min() > 0.38:
            return palette
    return np.clip(1.0 - np.round(other), 0.05, 0.95)


def _cast_shadow(rng: np.random.Generator, coverage: Floats) -> Floats:
    """Strength [64, 64] of the soft shadow that an object of this coverage throws beside itself."""
    shift = rng.integers(-4, 5, 2)
    shifted = np.roll(coverage, (int(shift[0]), int(shift[1])), axis=(0, 1))
    blurred = Image.fromarray((shifted * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    return np.asarray(blurred, dtype=np.float64) / 255 * rng.uniform(0.3, 0.65)


def _expose(rng: np.random.Generator, canvas: Floats) -> Bytes:
    """Light the scene from a side and photograph it with a noisy, sometimes unsharp, camera."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, IMAGE_SIZE_PX)] * 2)
    slope_x, slope_y = rng.uniform(-0.3, 0.3, 2)
    light = rng.uniform(0.8, 1.1) + slope_x * x + slope_y * y
    lit = canvas * light[..., None] * rng.uniform(0.9, 1.1, 3)
    if rng.random() < 0.3:
        sharp = Image.fromarray(_to_bytes(lit))
        lit = np.asarray(sharp.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9))), dtype=np.float64) / 255
    return _to_bytes(lit + rng.normal(0, rng.uniform(0.005, 0.05), lit.shape))


def _blend(under: Floats, coverage: Floats, over: Floats) -> Floats:
    blended: Floats = under * (1 - coverage[..., None]) + over * coverage[..., None]
    return blended


def _sharpen(field: Floats, gain: float) -> Floats:
    # A steep but smooth step keeps the edges of a pattern antialiased.
    return 0.5 + 0.5 * np.tanh(gain * field)


def _to_bytes(values: Floats) -> Bytes:
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _open_sheet() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("L", (IMAGE_SIZE_PX * _SUPERSAMPLING,) * 2)
    return sheet, ImageDraw.Draw(sheet)


def _to_sheet(points: Floats) -> list[tuple[float, float]]:
    return [(x, y) for x, y in (points * _SUPERSAMPLING).tolist()]


def _to_coverage(sheet: Image.Image) -> Floats:
    return np.asarray(sheet.reduce(_SUPERSAMPLING), dtype=np.float64) / 255


def _circle(num_points: int) -> Floats:
    return np.linspace(0.0, 2 * np.pi, num_points, endpoint=False, dtype=np.float64)


def _unit(angles: Floats) -> Floats:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _star_points() -> Floats:
    points: Floats = _unit(_circle(10)) * np.tile([1.08, 0.45], 5)[:, None]
    return points


def _crescent_points() -> Floats:
    # Two circles, of radius 1 and 0.8 and 0.45 apart, cross at these angles as seen from either center.
    outer, inner = 0.8957, 1.3502
    back = np.linspace(outer, 2 * np.pi - outer, 48)
    front = np.linspace(2 * np.pi - inner, inner, 40)
    return np.concatenate([_unit(back), 0.8 * _unit(front) + np.array([0.45, 0.0])])


# The outline of each class in units of its radius; the rings after the first are holes.
_OUTLINES: dict[str, tuple[Floats, ...]] = {
    "disc": (0.9 * _unit(_circle(72)),),
    "ring": (0.95 * _unit(_circle(72)), 0.5 * _unit(_circle(72))),
    "square": (1.1 * _unit(_circle(4)),),
    "triangle": (1.1 * _unit(_circle(3)),),
    "cross": (
        np.array(
            [(3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1), (-1, -3), (1, -3), (1, -1), (3, -1)]
        )
        / 3.1,
    ),
    "star": (_star_points(),),
    "crescent": (_crescent_points(),),
    "hexagon": (_unit(_circle(6)),),
    "arrow": (np.array([(-1, -0.3), (0, -0.3), (0, -0.8), (1, 0), (0, 0.8), (0, 0.3), (-1, 0.3)]),),
    "bolt": (np.array([(0.1, -1), (-0.6, 0.2), (-0.08, 0.2), (-0.3, 1), (0.6, -0.25), (0.08, -0.25), (0.5, -1)]),),
}
