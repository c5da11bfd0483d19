"""One sample -> a batch of augmented views, on the sample's device, every view drawn from a seed of its own.

View 0 is the sample itself; view i is drawn from (seed, i), so that it is the same whatever the batch it is made in and
whatever the device. Parameters and noise are drawn on the CPU, pictures are transformed on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from spadelens.errors import InputError
from spadelens.randomness import seeded
from spadelens.settings import configured_name, parse_configured
from spadelens.views.augmentation import Augmentation, check_range
from spadelens.views.color import jitter_colors
from spadelens.views.row_views import BootstrapViews
from spadelens.views.token_views import TokenViews


@final
@dataclass(frozen=True)
class NoViews(Augmentation):
    """The sample alone."""

    max_views = 1

    def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return copies of the sample."""
        return sample.expand(len(seeds), *sample.shape).clone()

    def spec(self) -> str:
        """Return the name of the preset."""
        return "none"


@final
@dataclass(frozen=True)
class NoiseViews(Augmentation):
    """The sample plus independent Gaussian noise; for inputs of any shape.

    Attributes:
        std: Standard deviation of the noise, in units of the (normalized) input.
    """

    std: float = 0.25

    def __post_init__(self) -> None:
        """Reject a negative standard deviation."""
        check_range(self.std, "noise std", 0.0, 1e6)

    def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the sample with a draw of noise for each seed."""
        noise = [_standard_normal(sample.shape, seed) for seed in seeds]
        return sample + self.std * torch.stack(noise).to(sample)

    def spec(self) -> str:
        """Return the name of the preset with the settings that differ from it."""
        return configured_name(self, AUGMENTATIONS)


@final
@dataclass(frozen=True)
class PaperViews(Augmentation):
    """Random resized crop, horizontal flip, color jitter and random remove, as SPADE's authors use them.

    Their published settings are the crop scale, the flip, the brightness and the hue; contrast, saturation and the
    size of the removed rectangle, of which only the names are published, follow the brightness and torchvision's
    random erasing.

    Attributes:
        scale: Range of the crop's area, as a fraction of the sample's.
        ratio: Range of the crop's aspect ratio.
        flip: Probability of a horizontal flip.
        brightness: Factors are drawn from [1 - brightness, 1 + brightness]; likewise contrast and saturation.
        contrast: See brightness.
        saturation: See brightness; for samples with three channels.
        hue: Shifts are drawn from [-hue, hue], as a fraction of the color circle; for samples with three channels.
        remove: Probability that a rectangle is removed, that is, set to the mean color of the normalization.
        remove_scale: Range of the removed area, as a fraction.
        mean: Mean per channel that was subtracted from the sample. Where it is None, the sample's own range counts as
            the range from black to white, and what is removed becomes zero.
        std: Standard deviation per channel that the sample was divided by, given together with `mean`.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.3
    remove: float = 0.5
    remove_scale: tuple[float, float] = (0.02, 0.33)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        if (self.mean is None) != (self.std is None):
            raise InputError("Cannot make views with one of mean and std alone: give both or neither.")
        for name in ("flip", "brightness", "contrast", "saturation", "remove"):
            check_range(getattr(self, name), name, 0.0, 1.0)
        check_range(self.hue, "hue", 0.0, 0.5)
        for name in ("scale", "remove_scale"):
            low, high = getattr(self, name)
            check_range(low, name, 1e-4, high)
            check_range(high, name, low, 1.0)
        check_range(self.ratio[0], "ratio", 1e-2, self.ratio[1])
        check_range(self.ratio[1], "ratio", self.ratio[0], 1e2)
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            raise InputError(f"Cannot use std={self.std!r}: expected finite numbers above zero.")

    def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return an augmented view for each seed; `sample` must be `[C, H, W]`."""
        if sample.dim() != 3:
            raise InputError(
                f"Cannot crop a sample of shape {list(sample.shape)}: the augmentation 'paper' expects [C, H, W]. "
                "Use 'noise', 'none' or a callable of your own."
            )
        draws = [
            _Draw.of(self, torch.Generator("cpu").manual_seed(seed), sample.shape[1], sample.shape[2]) for seed in seeds
        ]
        views = _crop_and_flip(sample, draws)
        views = self._jitter(sample, views, draws)
        for view, draw in zip(views, draws, strict=True):
            if draw.removed is not None:
                top, left, height, width = draw.removed
                view[:, top : top + height, left : left + width] = 0.0
        return views

    def spec(self) -> str:
        """Return the name of the preset with the settings that differ from it."""
        return configured_name(self, AUGMENTATIONS)

    def _jitter(self, sample: Tensor, views: Tensor, draws: Sequence[_Draw]) -> Tensor:
        if self.mean is not None and self.std is not None:
            if len(self.mean) != sample.shape[0]:
                raise InputError(
                    f"Cannot jitter a sample of {sample.shape[0]} channels with a normalization of {len(self.mean)}."
                )
            shift = sample.new_tensor(self.mean).view(-1, 1, 1)
            scale = sample.new_tensor(self.std).view(-1, 1, 1)
        else:
            extent = sample.max() - sample.min()
            scale = 1 / torch.where(extent > 0, extent, torch.ones_like(extent))
            shift = -sample.min() * scale
        factors = sample.new_tensor([draw.colors for draw in draws])
        return (jitter_colors(views * scale + shift, factors) - shift) / scale


@final
@dataclass(frozen=True)
class CallableViews(Augmentation):
    """Any callable that turns a sample into one view, such as a torchvision transform.

    It is called once a view, with the global random states of torch, NumPy and Python seeded for that view and
    restored afterwards.
    """

    transform: Callable[[Tensor], Tensor]

    def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return what the callable gives for each seed."""
        made = []
        for seed in seeds:
            with seeded(seed, sample.device):
                view = self.transform(sample.clone())
            if not isinstance(view, Tensor) or view.shape != sample.shape:
                got = list(view.shape) if isinstance(view, Tensor) else type(view).__name__
                raise InputError(f"The augmentation returned {got}: expected a tensor of shape {list(sample.shape)}.")
            made.append(view.to(sample))
        return torch.stack(made)

    def spec(self) -> str:
        """Return a description of the callable."""
        return f"callable {getattr(self.transform, '__qualname__', None) or repr(self.transform)}"


AUGMENTATIONS: Mapping[str, type[Augmentation]] = MappingProxyType(
    {"paper": PaperViews, "noise": NoiseViews, "tokens": TokenViews, "bootstrap": BootstrapViews, "none": NoViews}
)
AugmentationLike: TypeAlias = Augmentation | str | Callable[[Tensor], Tensor]


def parse_augmentation(
    augmentation: AugmentationLike, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Augmentation:
    """Return the augmentation that a preset's name or a callable stands for.

    Args:
        augmentation: 'noise', 'paper', 'tokens', 'bootstrap' or 'none', with settings as in 'noise:std=0.1'; an
            `Augmentation`; or a callable from a sample to one view.
        mean: The normalization of the samples, for presets that work on colors.
        std: Goes with `mean`.

    Raises:
        UnknownNameError: There is no such preset or setting.
    """
    if isinstance(augmentation, Augmentation):
        return augmentation
    if isinstance(augmentation, str):
        parsed = parse_configured("augmentation", augmentation, AUGMENTATIONS)
        if isinstance(parsed, PaperViews) and mean is not None and std is not None:
            return replace(parsed, mean=tuple(mean), std=tuple(std))
        return parsed
    if callable(augmentation):
        return CallableViews(augmentation)
    raise InputError(f"Cannot use {augmentation!r} as an augmentation: expected a name or a callable.")


def make_views(augmentation: Augmentation, sample: Tensor, seed: int, start: int, stop: int) -> Tensor:
    """Return the views `start` to `stop` of `sample`; view 0 is the sample itself."""
    seeds = [view_seed(seed, index) for index in range(max(start, 1), stop)]
    parts = [sample.unsqueeze(0)] if start == 0 < stop else []
    if seeds:
        precise = sample if sample.dtype == torch.float64 else sample.float()  # half precision cannot tell pixels apart
        views = augmentation.views(precise, seeds)
        if not isinstance(views, Tensor) or views.shape != (len(seeds), *sample.shape):
            got = list(views.shape) if isinstance(views, Tensor) else type(views).__name__
            raise InputError(f"The augmentation made {got}: expected views {[len(seeds), *sample.shape]}.")
        parts.append(views.to(sample))
    return torch.cat(parts)


def view_seed(seed: int, index: int) -> int:
    """Return the seed of view `index`: 63 well-mixed bits of (seed, index)."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class _Draw:
    """The random parameters of one view."""

    crop: tuple[float, float, float, float]  # center y, center x, height, width, as fractions of the sample
    is_flipped: bool
    colors: tuple[float, float, float, float]  # brightness, contrast and saturation factors, hue shift
    removed: tuple[int, int, int, int] | None  # top, left, height, width in pixels

    @classmethod
    def of(cls, settings: PaperViews, generator: torch.Generator, height: int, width: int) -> _Draw:
        uniform = iter(torch.rand(14, generator=generator, dtype=torch.float64, device="cpu").tolist())
        crop_height, crop_width = _rectangle(
            settings.scale, settings.ratio, height / width, next(uniform), next(uniform)
        )
        center_y = crop_height / 2 + (1 - crop_height) * next(uniform)
        center_x = crop_width / 2 + (1 - crop_width) * next(uniform)
        is_flipped = next(uniform) < settings.flip
        brightness, contrast, saturation = (
            1 + strength * (2 * next(uniform) - 1)
            for strength in (settings.brightness, settings.contrast, settings.saturation)
        )
        hue = settings.hue * (2 * next(uniform) - 1)
        is_removed = next(uniform) < settings.remove
        part_height, part_width = _rectangle(
            settings.remove_scale, (0.3, 3.3), height / width, next(uniform), next(uniform)
        )
        removed_height, removed_width = max(1, round(part_height * height)), max(1, round(part_width * width))
        top = int((height - removed_height + 1) * next(uniform))
        left = int((width - removed_width + 1) * next(uniform))
        return cls(
            crop=(center_y, center_x, crop_height, crop_width),
            is_flipped=is_flipped,
            colors=(brightness, contrast, saturation, hue),
            removed=(top, left, removed_height, removed_width) if is_removed else None,
        )


def _rectangle(
    scale: tuple[float, float], ratio: tuple[float, float], height_over_width: float, u: float, v: float
) -> tuple[float, float]:
    """Return height and width, as fractions, of a rectangle of random area and aspect that fits into the sample."""
    area = scale[0] + (scale[1] - scale[0]) * u
    aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * v)  # width over height, px
    height = math.sqrt(area / (aspect * height_over_width))
    width = area / height
    if height > 1:
        height, width = 1.0, min(1.0, area)
    elif width > 1:
        height, width = min(1.0, area), 1.0
    return height, width


def _crop_and_flip(sample: Tensor, draws: Sequence[_Draw]) -> Tensor:
    """Return the crops resized to the sample's size, `[views, C, H, W]`, by one bilinear sampling of the sample."""
    transforms = torch.zeros(len(draws), 2, 3, device="cpu", dtype=torch.float64)
    for transform, draw in zip(transforms, draws, strict=True):
        center_y, center_x, height, width = draw.crop
        transform[0, 0] = -width if draw.is_flipped else width
        transform[0, 2] = 2 * center_x - 1
        transform[1, 1] = height
        transform[1, 2] = 2 * center_y - 1
    grid = functional.affine_grid(transforms.to(sample), [len(draws), *sample.shape], align_corners=False)
    batch = sample.expand(len(draws), *sample.shape)
    return functional.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _standard_normal(shape: Sequence[int], seed: int) -> Tensor:
    """Draw on the CPU and in float32 whatever the user's defaults are, so that a view depends on its seed alone."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device="cpu")
