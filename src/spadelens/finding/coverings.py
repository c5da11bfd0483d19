"""Ways to take a region of a sample away: what the model is shown in its place.

A model can react to how a region is covered instead of to what is missing, so each kind of sample has several ways that
share no artifact: a blur keeps the region's colors and leaves no edge, a fill from around keeps neither its colors nor
its texture, and a texture keeps the statistics of the whole photo but no shape.

Everything here maps a sample and a batch of regions, boolean `[B, *units]`, to covered samples `[B, draws, *sample]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from spadelens.errors import InputError
from spadelens.extraction.pipeline.perturbation import blurred
from spadelens.kinds import Kind
from spadelens.randomness import generator_of

_BLUR = 0.1  # standard deviation, of the longer side
_MOST_ROWS = 16
_DRAWS = 4
_TINY = 1e-6
WORDS: Mapping[str, str] = MappingProxyType(
    {
        "inpaint": "filled from around",
        "blur": "blurred",
        "texture": "replaced by a texture",
        "mask": "masked",
        "other_words": "replaced by other words of the text",
        "usual_rows": "taken from usual rows",
        "mean": "set to the mean",
    }
)
"""Name of a covering -> what it does to a region, as a participle for a sentence."""


class Covering(ABC):
    """A way to cover regions of samples."""

    @abstractmethod
    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        """Return `sample` with each of `regions` covered, `[B, draws, *sample]`."""


@final
@dataclass(frozen=True)
class Blurred(Covering):
    """Replaces a region by the photo after a Gaussian blur of a tenth of its longer side."""

    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        """Return the covered photos `[B, 1, C, H, W]`."""
        soft = blurred(sample, _BLUR * max(sample.shape[-2:]))
        return torch.where(regions[:, None], soft, sample).unsqueeze(1)


@final
@dataclass(frozen=True)
class Inpainted(Covering):
    """Fills a region smoothly from the pixels around it (the pull-push algorithm of Gortler et al. 1996)."""

    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        """Return the covered photos `[B, 1, C, H, W]`."""
        return filled(sample.expand(len(regions), *sample.shape), regions).unsqueeze(1)


@final
@dataclass(frozen=True)
class Textured(Covering):
    """Replaces a region by a texture: the whole photo with the phases of its Fourier transform drawn at random.

    The texture has the colors and the power spectrum of the photo, and nothing of its shapes.
    """

    seed: int = 0

    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        """Return the covered photos `[B, 1, C, H, W]`."""
        return torch.where(regions[:, None], scrambled(sample, self.seed), sample).unsqueeze(1)


@final
@dataclass(frozen=True)
class Masked(Covering):
    """Replaces tokens by the mask token, or columns by their mean: zeros, as texts and rows are given to models."""

    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        """Return the covered samples `[B, 1, *sample]`."""
        covered = regions.view(*regions.shape, *[1] * (sample.dim() - regions.dim() + 1))
        return torch.where(covered, torch.zeros_like(sample), sample).unsqueeze(1)


@final
@dataclass(frozen=True)
class OtherWords(Covering):
    """Replaces tokens by others of the same text, drawn at random, which are not covered themselves if any are left."""

    seed: int = 0
    is_special: tuple[bool, ...] = ()

    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        """Return the covered texts `[B, 4, tokens, features]`."""
        draws = torch.rand(_DRAWS, len(sample), dtype=torch.float64, generator=generator_of(self.seed))
        special = torch.tensor(self.is_special or [False] * len(sample))
        usable = special if bool(special.all()) else ~special
        covered = []
        for region in regions:
            others = usable & ~region.cpu()
            words = (others if bool(others.any()) else usable).nonzero().flatten()
            drawn = words[(draws * len(words)).long()].to(sample.device)
            covered.append(torch.where(region[None, :, None], sample[drawn], sample))
        return torch.stack(covered)


@final
@dataclass(frozen=True, eq=False)
class UsualRows(Covering):
    """Replaces columns by those of usual rows, at most 16 of them, evenly spread over the background."""

    background: Tensor = field(default_factory=lambda: torch.zeros(1, 1))

    def __call__(self, sample: Tensor, regions: Tensor) -> Tensor:
        """Return the covered rows `[B, draws, features]`."""
        count = min(len(self.background), _MOST_ROWS)
        rows = self.background[torch.linspace(0, len(self.background) - 1, count).round().long()].to(sample)
        return torch.where(regions[:, None], rows, sample)


def coverings_for(
    kind: Kind, *, background: Tensor | None = None, is_special: tuple[bool, ...] = ()
) -> Mapping[str, Covering]:
    """Return the ways to cover regions of a kind of sample, by name; the first is the one that sentences quote.

    Args:
        kind: 'photo', 'text' or 'row'.
        background: Usual rows, as the model expects them, `[rows, features]`; for rows only.
        is_special: Which tokens were added around a text.

    Raises:
        InputError: Regions of this kind of sample cannot be covered.
    """
    found: dict[str, Covering]
    if kind == "photo":
        found = {"inpaint": Inpainted(), "blur": Blurred(), "texture": Textured()}
    elif kind == "text":
        found = {"mask": Masked(), "other_words": OtherWords(is_special=is_special)}
    elif kind == "row":
        found = {"mean": Masked()}
        if background is not None:
            found = {"usual_rows": UsualRows(background), **found}
    else:
        raise InputError(f"Cannot look for what a prediction rests on in a {kind}: expected a photo, a text or a row.")
    return MappingProxyType(found)


def filled(photos: Tensor, regions: Tensor) -> Tensor:
    """Return photos `[B, C, H, W]` whose regions `[B, H, W]` are filled smoothly from around; the rest is unchanged.

    A photo that is covered as a whole becomes zero, which is the mean color for most models.
    """
    hole = regions.unsqueeze(1)
    weight = (~hole).to(photos.dtype)
    levels = [(photos * weight, weight)]
    while max(levels[-1][0].shape[-2:]) > 1:  # pull: averages of what is known, at half the resolution each time
        levels.append(tuple(functional.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1]))  # type: ignore[arg-type]
    color, weight = levels[-1]
    coarse = color / weight.clamp(min=_TINY)
    for color, weight in reversed(levels[:-1]):  # push: unknown pixels take the color of the coarser level
        spread = functional.interpolate(coarse, size=color.shape[-2:], mode="bilinear", align_corners=False)
        coarse = torch.where(weight > 0, color + (1 - weight) * spread, spread)
    whole: Tensor = torch.where(hole, coarse, photos)
    return whole


def scrambled(photo: Tensor, seed: int) -> Tensor:
    """Return a photo `[C, H, W]` with random phases, the same for all channels, within the range of its values."""
    generator = generator_of(seed)
    precise = photo.float()
    noise = torch.randn(photo.shape[-2:], generator=generator).to(precise)
    spectrum = torch.fft.rfft2(noise)
    phases = spectrum / spectrum.abs().clamp(min=_TINY)
    phases[0, 0] = 1.0  # the mean color stays
    found: Tensor = torch.fft.irfft2(torch.fft.rfft2(precise) * phases, s=photo.shape[-2:])
    return found.clamp(float(precise.min()), float(precise.max())).to(photo.dtype)
