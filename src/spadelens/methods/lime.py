"""`Lime`: a linear model of the score when parts of the input are removed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from spadelens.errors import AttributionError, InputError
from spadelens.inputs.kind import kind_of
from spadelens.kinds import LAYOUTS, Kind, spread_units, unit_shape
from spadelens.methods.method import Attribution, Method, check_at_least_one, check_finite, check_seed
from spadelens.methods.superpixels import superpixels

_LEAST_SAMPLES = 10
_TOO_NARROW = "LIME gives almost no weight to versions with any part removed. Use a larger kernel_width."


@final
@dataclass(frozen=True)
class Lime(Method):
    """The contribution of each part of the input in a local linear model of the score (Ribeiro et al. 2016).

    The parts are the superpixels of a photo or volume, the segments of a signal, the tokens of a text or the features
    of a row. Let z in {0, 1}^parts mark the parts that are kept, x_z be the input with all other parts at the baseline,
    and q(z) the fraction of parts that are kept:

        minimize over b, a   sum over z of w(z) (score(x_z) - a - b z)² + penalty * v * ||b||²
        w(z) = exp(-d(z)² / (2 * kernel_width²)),   d(z) = 1 - sqrt(q(z))

    As in the authors' package, d is the cosine distance between z and the complete input. v is the sum over z of w(z)
    times the variance of a part, so that the penalty shrinks b by about 1 / (1 + penalty) at any scale of the scores.
    Every value of a part gets the part's coefficient. If at most `num_samples` different z exist, each is run once;
    otherwise, they are drawn in pairs of z and 1 - z. The members of an ensemble do not share out the draws: a fit to
    too few versions is uninformative, and averaging does not help.

    Captum is not used, because its Lime converts scores to float32 and sets small coefficients to zero (lasso, alpha
    0.01), while its LimeBase expects draws, weights and regression from the caller, as private classes.

    Attributes:
        num_samples: The maximum number of versions of the input to run.
        num_segments: The number of superpixels of a large photo (see `superpixels` for small ones), or of segments.
        penalty: The strength of the ridge regression.
        kernel_width: The width of the kernel that weights versions by their distance to the input.
        baseline: The value that replaces removed parts; 0 is the mean color of normalized photos.
        seed: Determines the versions; the same for every model, so that original model and trace see the same ones.
        batch_size: Versions per forward pass.
    """

    has_rules = False

    num_samples: int = 500
    num_segments: int = 64
    penalty: float = 0.1
    kernel_width: float = 0.25
    baseline: float = 0.0
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        check_at_least_one(self, "num_samples", "batch_size", "num_segments")
        check_finite(self, "baseline", "penalty", "kernel_width")
        check_seed(self)
        if self.num_samples < _LEAST_SAMPLES:
            raise InputError(f"Cannot use num_samples={self.num_samples}: expected {_LEAST_SAMPLES} or more.")
        for name in ("penalty", "kernel_width"):
            if getattr(self, name) <= 0:
                raise InputError(f"Cannot use {name}={getattr(self, name)!r}: expected a number above 0.")

    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return the coefficients, and how well the linear model fits the scores."""
        inputs = sample.detach()[0]
        kind = kind_of(model, inputs)
        parts = find_parts(inputs, kind, self.num_segments)
        present = draw_present(int(parts.max()) + 1, self.num_samples, self.seed)
        scores = self._scores(model, inputs, lambda rows: spread_units(rows[:, parts], inputs, kind), present, target)
        if _is_flat(scores):
            return Attribution(torch.zeros_like(inputs).unsqueeze(0))
        coefficients, fit = self._regress(present, scores.double())
        values = spread_units(coefficients[parts], inputs, kind).expand_as(inputs)
        return Attribution(values.to(inputs.dtype).unsqueeze(0), fit=fit)

    def _scores(
        self, model: nn.Module, inputs: Tensor, keep: Callable[[Tensor], Tensor], present: Tensor, target: int
    ) -> Tensor:
        """Return the score of every version, `[versions]`, on the CPU; `keep` turns rows of `present` into masks."""
        found = []
        with torch.no_grad():
            for rows in present.split(self.batch_size):
                kept = keep(rows).to(inputs.device)  # [B, ...], broadcasts
                versions = torch.where(kept, inputs, torch.full_like(inputs, self.baseline))
                found.append(model(versions)[:, target].detach().cpu())
        scores = torch.cat(found)
        if not bool(torch.isfinite(scores).all()):
            raise AttributionError(
                "LIME cannot be run: the score of the class is not finite for some versions of the input. Try another "
                "baseline or float32."
            )
        return scores

    def _regress(self, present: Tensor, scores: Tensor) -> tuple[Tensor, float]:
        """Return the coefficients, and the fraction of the variance of the scores that they explain.

        The fraction is cross-validated by leaving out one version at a time, unless all possible versions were run.

        Raises:
            AttributionError: The kernel gives almost no weight to versions with parts removed.
        """
        weights = proximity(present, self.kernel_width)
        coefficients, residuals, leverages = fit_ridge(present.double(), scores, weights, self.penalty)
        errors = residuals if len(present) == 2 ** present.shape[1] else residuals / (1 - leverages)
        deviations = scores - (weights * scores).sum() / weights.sum()
        fit = 1 - float((weights * errors.square()).sum() / (weights * deviations.square()).sum())
        if not math.isfinite(fit):
            raise AttributionError(_TOO_NARROW)
        return coefficients, fit


def find_parts(sample: Tensor, kind: Kind, num_segments: int) -> Tensor:
    """Return the index of each unit's part, starting from 0, on the CPU; `unit_shape` gives the shape.

    Photos and volumes are divided into superpixels, signals into segments of equal length; each token and each feature
    of a row is a part of its own.
    """
    shape = unit_shape(sample, kind)
    if kind == "signal":
        return torch.arange(shape[0]) * min(num_segments, shape[0]) // shape[0]
    if LAYOUTS[kind].is_spatial:
        return superpixels(sample, num_segments)
    return torch.arange(shape.numel()).view(shape)


def draw_present(num_parts: int, num_samples: int, seed: int) -> Tensor:
    """Return which parts each version keeps, boolean `[versions, parts]`; the first version keeps all.

    If at most `num_samples` versions exist, all 2^parts of them. Otherwise, each part is kept with probability 1/2, in
    pairs of complementary versions, so that pairwise interactions cancel out; the second version is empty.
    """
    if 2**num_parts <= num_samples:
        numbers = torch.arange(2**num_parts).flip(0)
        return (numbers[:, None] >> torch.arange(num_parts)) % 2 == 1
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(-(-num_samples // 2), num_parts, generator=generator) < 0.5
    drawn[0] = True
    return torch.stack([drawn, ~drawn], 1).flatten(0, 1)[:num_samples]


def proximity(present: Tensor, kernel_width: float) -> Tensor:
    """Return the weight of every version, float64: an exponential kernel of its cosine distance to the whole input."""
    distance = 1 - present.double().mean(1).sqrt()
    return torch.exp(-distance.square() / (2 * kernel_width**2))


def fit_ridge(design: Tensor, scores: Tensor, weights: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Fit a weighted ridge regression; the intercept is not penalized.

    If a version were left out of the fit, its error would be residual / (1 - leverage).

    Args:
        design: `[versions, parts]`, float64.
        scores: `[versions]`, float64.
        weights: `[versions]`, float64.
        penalty: The ridge penalty, relative to the mean weighted variance of a part.

    Returns:
        The coefficients `[parts]`, the residuals `[versions]` and the leverages `[versions]`.

    Raises:
        AttributionError: Under these weights, no part varies.
    """
    shares = weights / weights.sum()
    centered = design - shares @ design
    deviations = scores - shares @ scores
    weighted = (weights[:, None] * centered).T  # [parts, versions]
    gram = weighted @ centered
    strength = penalty * gram.diagonal().mean()
    if not strength > 0:
        raise AttributionError(_TOO_NARROW)
    solution = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), weighted)
    coefficients = solution @ deviations
    leverages = shares + (centered * solution.T).sum(1)
    return coefficients, deviations - centered @ coefficients, leverages


def _is_flat(scores: Tensor) -> bool:
    """Whether the scores differ by no more than rounding errors."""
    return float(scores.max() - scores.min()) <= 2 * torch.finfo(scores.dtype).eps * float(scores.abs().max())
