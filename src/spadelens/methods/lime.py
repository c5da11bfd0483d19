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
    """What each part of the input adds to the score, by a linear model around it (Ribeiro et al. 2016).

    The parts are superpixels of a photo, tokens of a text, columns of a row. With z in {0, 1}^parts for what is left of
    the input, x_z for the input with all other parts at the baseline, and a fraction q(z) of the parts left:

        minimize over b, a   sum over z of w(z) (score(x_z) - a - b z)² + penalty * v * b²
        w(z) = exp(-d(z)² / (2 * kernel_width²)),   d(z) = 1 - sqrt(q(z))

    d is the cosine distance between z and the whole, as in the authors' package. v is the sum over z of w(z) times the
    variance of a part, so that the penalty shrinks what b would be without it by about 1 / (1 + penalty), whatever the
    scale of the scores; b is never zero unless the scores do not react. Each value of a part is given the part's b.
    Where there are no more than `num_samples` different z, each is run once; else they are drawn in pairs, z and 1 - z.
    Members of an ensemble do not share them out: a fit to too few versions says little, and averaging does not help.

    Not by Captum: its Lime turns the scores into float32 and leaves nothing of small ones (lasso, alpha 0.01), and its
    LimeBase wants the draws, weights and regression from us and takes them by private classes.

    Attributes:
        num_samples: The maximum number of versions of the input to run.
        num_segments: How many superpixels a large photo has; see `superpixels` for small ones.
        penalty: The strength of the ridge regression.
        kernel_width: How far from the input versions still count.
        baseline: What parts are replaced by; 0 is the mean color of normalized photos.
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
        """Return the coefficients, and how well the linear model fits."""
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
        """Return the coefficients, and the share of the variance of the scores that is explained.

        Of scores that were left out of the fit one by one, but where all versions that there are have been run.

        Raises:
            AttributionError: The kernel leaves next to nothing that varies.
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
    """Return the number of the part of each unit, from 0 on, on the CPU; see `unit_shape` for the shape.

    A photo or a volume is cut into superpixels, a signal into segments of equal length; each token and each column is a
    part of its own.
    """
    shape = unit_shape(sample, kind)
    if kind == "signal":
        return torch.arange(shape[0]) * min(num_segments, shape[0]) // shape[0]
    if LAYOUTS[kind].is_spatial:
        return superpixels(sample, num_segments)
    return torch.arange(shape.numel()).view(shape)


def draw_present(num_parts: int, num_samples: int, seed: int) -> Tensor:
    """Return which parts each version keeps, `[versions, parts]` boolean, the first one all of them.

    All 2^parts versions, where that is no more than `num_samples`; else each part with probability 1/2, in pairs of
    which one keeps what the other lacks, so that what parts do only in twos cancels out. The second version is nothing.
    """
    if 2**num_parts <= num_samples:
        numbers = torch.arange(2**num_parts).flip(0)
        return (numbers[:, None] >> torch.arange(num_parts)) % 2 == 1
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(-(-num_samples // 2), num_parts, generator=generator) < 0.5
    drawn[0] = True
    return torch.stack([drawn, ~drawn], 1).flatten(0, 1)[:num_samples]


def proximity(present: Tensor, kernel_width: float) -> Tensor:
    """Return the weight of every version, float64: an exponential kernel on its cosine distance to the whole."""
    distance = 1 - present.double().mean(1).sqrt()
    return torch.exp(-distance.square() / (2 * kernel_width**2))


def fit_ridge(design: Tensor, scores: Tensor, weights: Tensor, penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the coefficients `[columns]`, the residuals `[rows]`, and the leverages `[rows]`: all in float64.

    The intercept is not penalized. A row that is left out of the fit misses its score by its residual over 1 minus its
    leverage.

    Raises:
        AttributionError: The weights leave nothing that varies.
    """
    shares = weights / weights.sum()
    centered = design - shares @ design
    deviations = scores - shares @ scores
    weighted = (weights[:, None] * centered).T  # [columns, rows]
    gram = weighted @ centered
    strength = penalty * gram.diagonal().mean()
    if not strength > 0:
        raise AttributionError(_TOO_NARROW)
    solution = torch.linalg.solve(gram + strength * torch.eye(len(gram), dtype=gram.dtype), weighted)
    coefficients = solution @ deviations
    leverages = shares + (centered * solution.T).sum(1)
    return coefficients, deviations - centered @ coefficients, leverages


def _is_flat(scores: Tensor) -> bool:
    """Whether scores differ by no more than rounding alone may do."""
    return float(scores.max() - scores.min()) <= 2 * torch.finfo(scores.dtype).eps * float(scores.abs().max())
