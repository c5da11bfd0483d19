"""Pictures to read."""

import numpy as np
from PIL import Image


def colorful(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth picture with something different in every corner."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)
