"""The methods that use plain gradients of the score, all but GradientShap and SmoothGrad through Captum.

Each is a frozen dataclass of its settings. Memory is bounded: methods that run many versions of the input run one, or
`batch_size` of them, at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from spadelens.methods.captum_methods import captum_method
from spadelens.methods.method import Attribution, Method, check_at_least_one, check_finite, check_noise


@final
@dataclass(frozen=True)
class Saliency(Method):
    """The gradient of the score (Simonyan et al. 2014), with its sign."""

    has_rules = False

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the gradient."""
        return Attribution(captum_method("Saliency")(model).attribute(sample, target=target, abs=False))


@final
@dataclass(frozen=True)
class InputXGradient(Method):
    """The gradient times the input (Shrikumar et al. 2016)."""

    has_rules = False

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the product."""
        return Attribution(captum_method("InputXGradient")(model).attribute(sample, target=target))


@final
@dataclass(frozen=True)
class IntegratedGradients(Method):
    """The gradient averaged along the straight path from a baseline, times the distance (Sundararajan et al. 2017).

    Attributes:
        num_steps: The number of points on the path (Gauss-Legendre).
        baseline: The value of every input at the start; 0 is the mean color of normalized photos.
        batch_size: Points per forward pass.
    """

    has_rules = False
    reference = "input_x_gradient"
    most_missed = 0.05  # the error of the numerical integral

    num_steps: int = 50
    baseline: float = 0.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_at_least_one(self, "num_steps", "batch_size")
        check_finite(self, "baseline")

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the integral and its convergence delta."""
        values, delta = captum_method("IntegratedGradients")(model).attribute(
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

    Captum's GradientShap draws from the global random states, which other threads draw from too. Here, the same numbers
    come from generators of its own.

    Attributes:
        num_samples: The number of random points.
        noise_std: Standard deviation of the noise added to the input, in its (normalized) units.
        baseline: The value of every input of the baseline; 0 is the mean color of normalized photos.
        seed: Determines the points; the same for every model, so that original model and trace see the same draws.
    """

    has_rules = False
    reference = "input_x_gradient"
    most_missed = 0.5  # the error of a mean over few random points

    num_samples: int = 48
    noise_std: float = 0.1
    baseline: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_at_least_one(self, "num_samples")
        check_finite(self, "baseline")
        check_noise(self)

    def share(self, number: int, count: int) -> Method:
        """Return a part of the points, drawn by a seed of its own."""
        return _share_of_draws(self, number, count)

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the mean over all points, and the mean of their convergence deltas."""
        precise = sample.detach() if sample.dtype == torch.float64 else sample.detach().float()
        baseline = torch.full_like(precise, self.baseline)
        std = torch.full_like(precise, self.noise_std, dtype=torch.float32)
        noise = torch.Generator(sample.device).manual_seed(self.seed)
        fractions = np.random.RandomState(self.seed % 2**32)

        def score(inputs: Tensor) -> Tensor:  # points are in float32 at least, whatever the model computes in
            found: Tensor = model(inputs.to(sample.dtype))[:, target]
            return found.to(inputs.dtype)

        total, total_delta = torch.zeros_like(precise), 0.0
        with torch.no_grad():
            start = score(baseline)
        for _ in range(self.num_samples):
            end = precise + torch.normal(0.0, std, generator=noise)
            fraction = torch.tensor(fractions.uniform(0.0, 1.0), device=precise.device, dtype=precise.dtype)
            point = (fraction * end + (1.0 - fraction) * baseline).requires_grad_()
            (gradient,) = torch.autograd.grad(score(point).sum(), point)
            values = (end - baseline) * gradient
            with torch.no_grad():
                total += values
                total_delta += float(values.flatten(1).sum(1) - (score(end) - start))
        return Attribution(total / self.num_samples, total_delta / self.num_samples)


@final
@dataclass(frozen=True)
class SmoothGrad(Method):
    """The mean gradient over noisy copies of the input (Smilkov et al. 2017), with its sign.

    Captum's NoiseTunnel draws from the global random state, in an order that depends on the size of its batches; here
    the draws follow from the seed alone, so that original model and trace see the same ones.

    Attributes:
        noise_std: Standard deviation of the noise, in the (normalized) units of the input.
        num_samples: The number of noisy copies.
        seed: Determines the noise.
        batch_size: Copies per forward pass.
    """

    has_rules = False
    reference = "gradient"

    noise_std: float = 0.25
    num_samples: int = 20
    seed: int = 0
    batch_size: int = 10

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_at_least_one(self, "num_samples", "batch_size")
        check_noise(self)

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


def _share_of_draws(method: GradientShap | SmoothGrad, number: int, count: int) -> Method:
    return replace(method, num_samples=-(-method.num_samples // count), seed=(method.seed + number) % 2**63)
