"""Random shifts, rotations and zooms of images, so that gradient ascent does not exploit single pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from spadelens.errors import InputError
from spadelens.views.view_source import check_count

_GREY = 0.5


@final
@dataclass(frozen=True)
class Transformations:
    """Random transformations of an image, as one interpolation; what comes in from outside is grey.

    Attributes:
        jitter: Shifts are drawn from [-jitter, jitter], as a fraction of the side, on both axes.
        scale: Minimum and maximum zoom; at 2, a quarter of the image fills the frame.
        rotation: Rotations are drawn from [-rotation, rotation], in degrees.
        noise: Standard deviation of Gaussian noise, in units of colors in [0, 1].
        num_copies: The number of transformed copies of each image in a step.
    """

    jitter: float = 0.07
    scale: tuple[float, ...] = (0.9, 1.1)
    rotation: float = 10.0
    noise: float = 0.0
    num_copies: int = 1

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        numbers = (self.jitter, *self.scale, self.rotation, self.noise)
        if not all(math.isfinite(number) and number >= 0 for number in numbers):
            raise InputError(f"Cannot transform images with {self}: expected finite numbers, zero or above.")
        check_count(self.num_copies, "num_copies", at_least=1)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise InputError(
                f"Cannot transform images with scale={self.scale!r}: expected the minimum and maximum zoom."
            )

    def copies(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return transformed copies of the `images` `[M, N, C, H, W]` of M models, the same for each of the models.

        Args:
            images: Colors in [0, 1].
            generator: What is random is drawn from it, on the CPU, image by image: the first images get the same
                whatever their number.

        Returns:
            `[M, N * num_copies, C, H, W]`, the copies of one image together.
        """
        copies = images.repeat_interleave(self.num_copies, dim=1)
        draws = [self._draw(images.shape[2:], generator) for _ in range(images.shape[1])]
        maps = torch.cat([maps for maps, _ in draws]).to(images).repeat(len(images), 1, 1)
        flat = copies.flatten(0, 1) - _GREY
        grid = functional.affine_grid(maps, list(flat.shape), align_corners=False)
        seen = functional.grid_sample(flat, grid, align_corners=False).view_as(copies) + _GREY
        return seen + torch.cat([noise for _, noise in draws]).to(seen) if self.noise else seen

    def _draw(self, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the affine maps `[num_copies, 2, 3]` and the noise `[num_copies, C, H, W]` for one image."""
        uniform = torch.rand(self.num_copies, 4, generator=generator, dtype=torch.float32).double()
        low, high = self.scale
        zoom = low + (high - low) * uniform[:, 0]
        angle = math.radians(self.rotation) * (2 * uniform[:, 1] - 1)
        shift = 2 * self.jitter * (2 * uniform[:, 2:] - 1)  # the frame reaches from -1 to 1
        height, width = shape[-2:]
        cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
        rows = [
            torch.stack([cos, -sin * (height / width), shift[:, 0]], dim=1),
            torch.stack([sin * (width / height), cos, shift[:, 1]], dim=1),
        ]
        noise = torch.zeros(0)
        if self.noise:
            noise = self.noise * torch.randn(self.num_copies, *shape, generator=generator, dtype=torch.float32)
        return torch.stack(rows, dim=1), noise

    def spec(self) -> str:
        """Return a short description."""
        low, high = self.scale
        return (
            f"jitter={self.jitter},scale={low}/{high},rotation={self.rotation},noise={self.noise},"
            f"num_copies={self.num_copies}"
        )


NO_TRANSFORMATIONS = Transformations(jitter=0.0, scale=(1.0, 1.0), rotation=0.0)
