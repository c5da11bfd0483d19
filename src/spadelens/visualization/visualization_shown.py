"""How a visualization shows itself in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from spadelens import snippets
from spadelens.pictures import as_picture, bars_picture

if TYPE_CHECKING:
    from PIL import Image

    from spadelens.visualization.visualization import Visualization

_MOST_IMAGES, _COLOR_CHANNELS, _NUM_AXES = 4, (1, 3), 4


def visualization_html(found: Visualization) -> str:
    """Return what a notebook shows: the first images, over grey where the objective did not depend on them."""
    count = len(found.images)
    shown = min(count, _MOST_IMAGES)
    values = found.curve[-1].tolist() if len(found.curve) else []
    captions = [f"image {number}: {values[number]:.3g}" if values else f"image {number}" for number in range(shown)]
    return snippets.block(
        f"Visualization of {snippets.shortened(found.objective, 120)}",
        snippets.pictures([_picture(found, number) for number in range(shown)], captions),
        snippets.line(f"and {count - shown} more images") if count > shown else "",
    )


def _picture(found: Visualization, number: int) -> Image.Image:
    image = found.images[number].detach().cpu()
    if found.images.dim() != _NUM_AXES or len(image) not in _COLOR_CHANNELS:
        return bars_picture(image.flatten())
    opacity = found.opacity[number]
    if opacity.shape == image.shape[1:]:
        return as_picture(image.clamp(0, 1), opacity)
    return as_picture(_stretched(image))  # an input of a model without preprocessing


def _stretched(image: Tensor) -> Tensor:
    """Return numbers scaled to [0, 1]."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low).clamp_min(1e-12)
