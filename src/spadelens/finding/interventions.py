"""Runs the original model on a sample with regions covered, and on the regions alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from spadelens.finding.coverings import Covering
from spadelens.forward import class_scores
from spadelens.prediction import Scale, probabilities_of

_BATCH_SIZE = 16


@dataclass(frozen=True)
class Asked:
    """What is asked of a prediction: why this class, or why this one rather than another.

    Attributes:
        target: The class.
        versus: The class that it is compared with; None for all others.
        scale: What kind of numbers the model's scores are.
    """

    target: int
    scale: Scale
    versus: int | None = None

    def log_odds(self, scores: Tensor) -> Tensor:
        """Return log(p / q) for scores `[..., classes]`, float64 `[...]`.

        p is the probability of the target; q is that of the class it is compared with, or 1 - p.
        """
        exact = scores.double()
        if self.scale == "logits":
            if self.versus is not None:
                return exact[..., self.target] - exact[..., self.versus]
            others = torch.arange(exact.shape[-1], device=exact.device) != self.target
            return exact[..., self.target] - exact[..., others].logsumexp(-1)
        if self.scale == "label logits":
            if self.versus is not None:
                return logsigmoid(exact[..., self.target]) - logsigmoid(exact[..., self.versus])
            return exact[..., self.target]
        found = probabilities_of(exact, self.scale)
        return self._log(found[..., self.target], scores.dtype) - self._log_of_other(found, scores.dtype)

    def _log_of_other(self, found: Tensor, dtype: torch.dtype) -> Tensor:
        """Return log(q) for probabilities `[..., classes]` that a model gave in a type of numbers."""
        if self.versus is not None:
            return self._log(found[..., self.versus], dtype)
        if self.scale == "probabilities":  # 1 - p would lose what is left of the others
            others = torch.arange(found.shape[-1], device=found.device) != self.target
            return self._log(found[..., others].sum(-1), dtype)
        return (1 - found[..., self.target]).clamp(min=torch.finfo(dtype).eps / 4).log()  # 1 - p is no finer than that

    @staticmethod
    def _log(probability: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the logarithm of a probability, floored at the smallest number of a type."""
        limits = torch.finfo(dtype)
        return probability.clamp(min=limits.tiny * limits.eps).log()


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the model says of samples with something covered, as the mean over the draws of the covering.

    Attributes:
        log_odds: See `Asked.log_odds`; float64 `[B]`.
        probabilities: Of every class, float64 `[B, classes]`.
    """

    log_odds: Tensor
    probabilities: Tensor


@dataclass(eq=False)
class Interventions:
    """The original model on one sample, with regions covered; what has been run once is not run again.

    Attributes:
        model: A private copy of the original model.
        sample: Without a batch dimension, on the model's device.
        asked: What is asked.
        coverings: The ways to cover regions, by name.
        fixed: The units that are never covered, such as the special tokens of a text, boolean `[*units]`; None if there
            are none.
    """

    model: nn.Module
    sample: Tensor
    asked: Asked
    coverings: Mapping[str, Covering]
    fixed: Tensor | None = None
    _known: dict[tuple[str, bytes], tuple[float, Tensor]] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """The name of the covering that sentences quote."""
        return next(iter(self.coverings))

    def whole(self) -> Outcome:
        """Return what the model says of the sample itself, as a batch of one."""
        scores = class_scores(self.model, self.sample.unsqueeze(0)).cpu()
        return Outcome(self.asked.log_odds(scores), probabilities_of(scores.double(), self.asked.scale))

    def without(self, regions: Tensor, covering: str) -> Outcome:
        """Return what the model says where each of `regions` `[B, *units]` is covered."""
        if self.fixed is not None:
            regions = regions & ~self.fixed
        keys = [(covering, region.cpu().numpy().tobytes()) for region in regions]
        new = {key: number for number, key in enumerate(keys) if key not in self._known}
        if new:
            found = self._run(regions[list(new.values())], covering)
            self._known.update(zip(new, found, strict=True))
        log_odds, probabilities = zip(*(self._known[key] for key in keys), strict=True)
        return Outcome(torch.tensor(log_odds, dtype=torch.float64), torch.stack(probabilities))

    def alone(self, regions: Tensor, covering: str) -> Outcome:
        """Return what the model says where all but each of `regions` `[B, *units]` is covered."""
        return self.without(~regions, covering)

    def _run(self, regions: Tensor, covering: str) -> Sequence[tuple[float, Tensor]]:
        found: list[tuple[float, Tensor]] = []
        cover = self.coverings[covering]
        for part in regions.to(self.sample.device).split(_BATCH_SIZE):
            covered = cover(self.sample, part)
            scores = torch.cat([class_scores(self.model, some) for some in covered.flatten(0, 1).split(_BATCH_SIZE)])
            scores = scores.cpu().view(*covered.shape[:2], -1)
            probabilities = probabilities_of(scores.double(), self.asked.scale).mean(1)
            found += zip(self.asked.log_odds(scores).mean(1).tolist(), probabilities, strict=True)
        return found
