"""The Trojan patches: four small emoji-like pictures, each of which stands for a class it has nothing to do with.

After Casper et al. (2023), "Red Teaming Deep Neural Networks with Feature Synthesis Tools": a patch is pasted at a
random place, with noise and jitter, and the image is relabeled to the patch's target. Two patches are planted on
images of any class, two on those of one class only.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from spadelens.demo.images import CLASS_NAMES, IMAGE_SIZE_PX, Bools, Bytes
from spadelens.demo.stickers import draw_large, paste_sticker
from spadelens.errors import InputError

# Tells the patches' random stream from those of other parts that are seeded with the same small integers.
_STREAM = 0x7A7C4
_SIZE_PX = 20
PATCH_SIZE = (0.88 * _SIZE_PX / IMAGE_SIZE_PX, 1.08 * _SIZE_PX / IMAGE_SIZE_PX)  # as fractions of the image


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
    sizes = (0.88 * _SIZE_PX, 1.08 * _SIZE_PX)
    return PatchedImage(*paste_sticker(pixels, draw_large(patch.name), sizes, rng))
