"""Image parameterizations: the parameters that gradient ascent changes and the image that they represent."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch
from torch import Tensor

from spadelens.errors import InputError

# A square root of the covariance of the colors in 160 photos of ImageNet, [color, component]: components that are
# independent and of variance 1 become colors that vary together as those of photos do. After Olah et al. (2017).
_COLOR_ROOT = ((0.2499, 0.0970, 0.0243), (0.2589, -0.0112, -0.0591), (0.2553, -0.0835, 0.0362))
# Along these components the amplitude falls with the frequency to these powers, in the same photos.
_DECAYS = (1.1, 2.0, 2.0)
_SIGMOID_SLOPE = 0.25  # of the sigmoid at zero


class Parameterization(ABC):
    """Numbers that stand for an image, and how far a step of gradient ascent changes them."""

    rate: float
    is_image: bool = True  # whether it gives colors in [0, 1], which are then normalized as the model expects

    @abstractmethod
    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return numbers to start from, for one image of `shape` `[C, H, W]`, drawn from `generator`, on the CPU."""

    @abstractmethod
    def image(self, parameters: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the images `[N, *shape]` that `parameters` `[N, ...]` stand for."""


@final
@dataclass(frozen=True)
class Fourier(Parameterization):
    """The Fourier coefficients of decorrelated colors (Olah et al. 2017), scaled such that all frequencies move alike.

    image = sigmoid(4 A irfft2(parameters / (4 frequency^decay))), with A a square root of the covariance of colors.

    Attributes:
        rate: Of Adam.
        std: Standard deviation of the numbers that are started from. A trace may not respond to plain grey at all.
        decay: Power of the frequency by which coefficients are divided.
    """

    rate: float = 0.05
    std: float = 0.1
    decay: float = 1.0

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        _check_positive(rate=self.rate, std=self.std, decay=self.decay)

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return coefficients `[C, H, W // 2 + 1, 2]`, real and imaginary."""
        channels, height, width = _image_shape(shape)
        return self.std * torch.randn(channels, height, width // 2 + 1, 2, generator=generator, dtype=torch.float32)

    def image(self, parameters: Tensor, shape: Sequence[int]) -> Tensor:
        """Return images in [0, 1]."""
        _, height, width = shape
        scale = _frequencies(height, width).pow(-self.decay) / 4
        coefficients = torch.view_as_complex(parameters) * scale.to(parameters)
        return _colors(torch.fft.irfft2(coefficients, s=(height, width), norm="ortho"))


@final
@dataclass(frozen=True)
class Maco(Parameterization):
    """Phases alone, at the magnitudes of photos (MACO, Fel et al. 2023), so that no frequency becomes unnaturally loud.

    image = sigmoid(4 A z), with z = irfft2(magnitudes * exp(i parameters)) of the amplitude spectrum frequency^-decay,
    of mean 0 and of variance 1 in each component, whatever the phases.

    Attributes:
        rate: Of Adam, in radians.
    """

    rate: float = 0.2

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        _check_positive(rate=self.rate)

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return uniform phases `[C, H, W // 2 + 1]`."""
        channels, height, width = _image_shape(shape)
        return 2 * math.pi * torch.rand(channels, height, width // 2 + 1, generator=generator, dtype=torch.float32)

    def image(self, parameters: Tensor, shape: Sequence[int]) -> Tensor:
        """Return images in [0, 1]."""
        channels, height, width = shape
        decays = _DECAYS if channels == len(_DECAYS) else _DECAYS[:1] * channels
        magnitudes = torch.stack([_amplitudes(height, width, decay) for decay in decays])
        phases = _phases_of_real_images(parameters, width)
        coefficients = torch.polar(magnitudes.to(phases).expand_as(phases), phases)
        return _colors(torch.fft.irfft2(coefficients, s=(height, width)))


@final
@dataclass(frozen=True)
class Direct(Parameterization):
    """The input itself, without bounds; for inputs that are no images.

    Attributes:
        rate: Of Adam.
        std: Standard deviation of the numbers that are started from.
    """

    rate: float = 0.05
    std: float = 0.01
    is_image = False

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        _check_positive(rate=self.rate, std=self.std)

    def start(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return an input of `shape`."""
        return self.std * torch.randn(*shape, generator=generator, dtype=torch.float32)

    def image(self, parameters: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the numbers as they are."""
        del shape
        return parameters


PARAMETERIZATIONS: Mapping[str, type[Parameterization]] = MappingProxyType(
    {"fourier": Fourier, "maco": Maco, "direct": Direct}
)


def _frequencies(height: int, width: int) -> Tensor:
    """Return the frequency of every coefficient of `irfft2`, `[H, W // 2 + 1]`, in cycles a pixel."""
    across = torch.fft.rfftfreq(width, dtype=torch.float64)
    down = torch.fft.fftfreq(height, dtype=torch.float64)
    return torch.hypot(down[:, None], across[None]).clamp_min(1 / max(height, width))


def _amplitudes(height: int, width: int, decay: float) -> Tensor:
    """Return magnitudes proportional to frequency^-decay, `[H, W // 2 + 1]`, of an image of mean 0 and variance 1."""
    amplitudes = _frequencies(height, width).pow(-decay)
    amplitudes[0, 0] = 0.0  # the mean is grey
    times = torch.full_like(amplitudes, 2.0)  # a coefficient stands for its mirror image as well
    times[:, _own_mirrors(width)] = 1.0
    power = (times * amplitudes.square()).sum()
    return (
        amplitudes * (height * width / power.sqrt()) if power > 0 else amplitudes
    )  # a single pixel has its mean alone


def _phases_of_real_images(phases: Tensor, width: int) -> Tensor:
    """Return phases `[..., H, W // 2 + 1]` that are opposite where coefficients are mirror images of one another.

    In the columns that are their own mirror images `irfft2` would add both halves up, and magnitudes would depend on
    phases. The first half says what the second half is; coefficients that are their own mirror images have phase 0.
    """
    height = phases.shape[-2]
    rows = torch.arange(height, device=phases.device)
    mirrored = -rows % height
    signs = torch.sign(mirrored - rows).to(phases)
    columns = _own_mirrors(width)
    opposite = signs[:, None] * phases[..., torch.minimum(rows, mirrored), :][..., columns]
    result = phases.clone()
    result[..., columns] = opposite
    return result


def _own_mirrors(width: int) -> list[int]:
    """Return the columns of the coefficients of `irfft2` that are their own mirror images."""
    return [0] if width % 2 else [0, width // 2]


def _colors(components: Tensor) -> Tensor:
    """Return components `[N, C, H, W]` as colors in [0, 1]; those of three channels become correlated."""
    if components.shape[1] == len(_COLOR_ROOT):
        root = components.new_tensor(_COLOR_ROOT) / _SIGMOID_SLOPE
        return torch.sigmoid(torch.einsum("rc,nchw->nrhw", root, components))
    return torch.sigmoid(components * (_COLOR_ROOT[0][0] / _SIGMOID_SLOPE))


def _image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(
            f"Cannot make an image of shape {list(shape)}: expected [C, H, W]. Use 'direct' for other inputs."
        )
    return shape[0], shape[1], shape[2]


def _check_positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"Cannot use {name}={value!r}: expected a number above zero.")
