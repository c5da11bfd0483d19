"""The attribution methods: which part of an input moved the score of a class. All but SmoothGrad through Captum.

Each is a frozen dataclass of its settings. Memory is bounded: methods that run many versions of the input run one, or
`batch_size` of them, at a time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.randomness import seeded


@dataclass(frozen=True)
class Attribution:
    """What a method says of one input.

    Attributes:
        values: Signed, of the input's shape `[1, C, H, W]`.
        convergence_delta: For methods that promise completeness, by how much the sum of the values misses the
            difference between the scores of the input and of the baseline; None for the others.
    """

    values: Tensor
    convergence_delta: float | None = None


class Method(ABC):
    """An attribution method."""

    @abstractmethod
    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return how much each input value of `sample` `[1, C, H, W]` counts for the score of class `target`.

        `model` is in evaluation mode, with gradients enabled.
        """

    def share(self, number: int, count: int) -> Method:
        """Return what the model `number` of `count` runs where the mean of their maps is wanted.

        Methods that average over random draws share them out, so that the mean costs what one model would.
        """
        del number, count
        return self


@final
@dataclass(frozen=True)
class Saliency(Method):
    """The gradient of the score (Simonyan et al. 2014), with its sign."""

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the gradient."""
        from captum.attr import Saliency as CaptumSaliency

        return Attribution(CaptumSaliency(model).attribute(sample, target=target, abs=False))


@final
@dataclass(frozen=True)
class InputXGradient(Method):
    """The gradient times the input (Shrikumar et al. 2016)."""

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the product."""
        from captum.attr import InputXGradient as CaptumInputXGradient

        return Attribution(CaptumInputXGradient(model).attribute(sample, target=target))


@final
@dataclass(frozen=True)
class IntegratedGradients(Method):
    """The gradient averaged on the straight path from a baseline, times the distance (Sundararajan et al. 2017).

    Attributes:
        num_steps: Points on the path (Gauss-Legendre).
        baseline: The value of every input at the start; 0 is the mean color of normalized photos.
        batch_size: Points that are run at a time.
    """

    num_steps: int = 50
    baseline: float = 0.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        _check_at_least_one(self, "num_steps", "batch_size")
        _check_finite(self, "baseline")

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the integral and its convergence delta."""
        from captum.attr import IntegratedGradients as CaptumIntegratedGradients

        values, delta = CaptumIntegratedGradients(model).attribute(
            sample,
            baselines=self.baseline,
            target=target,
            n_steps=self.num_steps,
            internal_batch_size=self.batch_size,
            return_convergence_delta=True,
        )
        return Attribution(values, float(delta))


@final
@dataclass(frozen=True)
class GradientShap(Method):
    """Expected gradients at random points between a baseline and the noisy input (Lundberg & Lee 2017).

    Attributes:
        num_samples: Random points.
        noise_std: Standard deviation of the noise added to the input, in its (normalized) units.
        baseline: The value of every input of the baseline; 0 is the mean color of normalized photos.
        seed: Determines the points; the same for every model, so that dense and sparse maps see the same draws.
    """

    num_samples: int = 48
    noise_std: float = 0.1
    baseline: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        _check_at_least_one(self, "num_samples")
        _check_finite(self, "baseline")
        _check_noise(self)

    def share(self, number: int, count: int) -> Method:
        """Return a part of the points, drawn by a seed of its own."""
        return _share_of_draws(self, number, count)

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the mean over all points, and the mean of their convergence deltas."""
        from captum.attr import GradientShap as CaptumGradientShap

        explainer = CaptumGradientShap(model)
        baselines = torch.full_like(sample, self.baseline)
        total, total_delta = torch.zeros_like(sample), 0.0
        with seeded(self.seed, sample.device):
            for _ in range(self.num_samples):  # one at a time: Captum runs all that it draws at once
                values, delta = explainer.attribute(
                    sample, baselines, n_samples=1, stdevs=self.noise_std, target=target, return_convergence_delta=True
                )
                total += values.detach()
                total_delta += float(delta)
        return Attribution(total / self.num_samples, total_delta / self.num_samples)


@final
@dataclass(frozen=True)
class Occlusion(Method):
    """How much the score falls when a window of the input is covered (Zeiler & Fergus 2014).

    Attributes:
        window: Height and width of the window, as a fraction of the input's; all channels are covered.
        stride: The step between windows, as a fraction of the window.
        baseline: What the window is covered with; 0 is the mean color of normalized photos.
        batch_size: Windows that are run at a time.
    """

    window: float = 0.125
    stride: float = 0.5
    baseline: float = 0.0
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        _check_at_least_one(self, "batch_size")
        _check_finite(self, "baseline")
        for name in ("window", "stride"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"Cannot use {name}={getattr(self, name)!r}: expected a number above 0, at most 1.")

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return, for every input, the mean fall of the score over the windows that cover it."""
        from captum.attr import Occlusion as CaptumOcclusion

        sizes = [max(1, round(size * self.window)) for size in sample.shape[2:]]
        strides = [max(1, round(size * self.stride)) for size in sizes]
        with torch.no_grad():
            values = CaptumOcclusion(model).attribute(
                sample,
                sliding_window_shapes=(sample.shape[1], *sizes),
                strides=(sample.shape[1], *strides),
                baselines=self.baseline,
                target=target,
                perturbations_per_eval=self.batch_size,
            )
        return Attribution(values)


@final
@dataclass(frozen=True)
class SmoothGrad(Method):
    """The mean gradient over noisy copies of the input (Smilkov et al. 2017), with its sign.

    Captum's NoiseTunnel draws from the global random state, in an order that depends on the size of its batches; here
    the draws follow from the seed alone, so that a dense network and a trace see the same ones.

    Attributes:
        noise_std: Standard deviation of the noise, in the (normalized) units of the input.
        num_samples: Noisy copies.
        seed: Determines the noise.
        batch_size: Copies that are run at a time.
    """

    noise_std: float = 0.25
    num_samples: int = 20
    seed: int = 0
    batch_size: int = 10

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        _check_at_least_one(self, "num_samples", "batch_size")
        _check_noise(self)

    def share(self, number: int, count: int) -> Method:
        """Return a part of the copies, drawn by a seed of its own."""
        return _share_of_draws(self, number, count)

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the mean."""
        generator = torch.Generator().manual_seed(self.seed)
        total = torch.zeros_like(sample[0])
        for start in range(0, self.num_samples, self.batch_size):
            count = min(self.batch_size, self.num_samples - start)
            noise = torch.stack([torch.randn(sample.shape[1:], generator=generator) for _ in range(count)])
            batch = (sample.detach() + self.noise_std * noise.to(sample)).requires_grad_()
            (gradients,) = torch.autograd.grad(model(batch)[:, target].sum(), batch)
            total += gradients.sum(0)
        return Attribution((total / self.num_samples).unsqueeze(0))


METHODS: Mapping[str, type[Method]] = MappingProxyType(
    {
        "saliency": Saliency,
        "smoothgrad": SmoothGrad,
        "input_x_gradient": InputXGradient,
        "integrated_gradients": IntegratedGradients,
        "gradient_shap": GradientShap,
        "occlusion": Occlusion,
    }
)


def _share_of_draws(method: GradientShap | SmoothGrad, number: int, count: int) -> Method:
    return replace(method, num_samples=-(-method.num_samples // count), seed=(method.seed + number) % 2**63)


def _check_finite(method: Any, *names: str) -> None:
    for name in names:
        if not math.isfinite(getattr(method, name)):
            raise InputError(f"Cannot use {name}={getattr(method, name)!r}: expected a finite number.")


def _check_noise(method: Any) -> None:
    _check_finite(method, "noise_std")
    if method.noise_std < 0 or not 0 <= method.seed < 2**63:
        raise InputError(f"Cannot use noise_std={method.noise_std!r}, seed={method.seed!r}: expected 0 or more.")


def _check_at_least_one(method: Any, *names: str) -> None:
    for name in names:
        value = getattr(method, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"Cannot use {name}={value!r}: expected a whole number of at least 1.")
