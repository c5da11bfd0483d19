"""What a model says of a sample: probabilities of classes from the scores that it returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """What a model says of the sample.

    Attributes:
        probabilities: Of every class; see `predict`.
    """

    probabilities: tuple[float, ...]

    @property
    def class_index(self) -> int:
        """The likeliest class, the first of them where several are."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def probability(self) -> float:
        """The probability of the likeliest class."""
        return self.probabilities[self.class_index]

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return (class, probability) of the `count` likeliest classes, in descending order."""
        ranked = sorted(range(len(self.probabilities)), key=lambda index: -self.probabilities[index])
        return [(index, self.probabilities[index]) for index in ranked[:count]]


def predict(scores: Tensor, is_distribution: bool) -> Prediction:
    """Return the prediction for one sample from its scores `[classes]`.

    Probabilities are the softmax of the scores, or the scores themselves where they are probabilities already; see
    `are_probabilities`, which is asked once, of the dense model.
    """
    scores = scores.detach().cpu().double()
    return Prediction(tuple((scores / scores.sum() if is_distribution else scores.softmax(-1)).tolist()))


def are_probabilities(scores: Tensor) -> bool:
    """Whether the model that gave `scores` `[classes]` ends in a softmax: none is negative and their sum is one."""
    tolerance = max(1e-3, 8 * torch.finfo(scores.dtype).eps)
    return bool((scores >= 0).all()) and abs(float(scores.detach().cpu().double().sum()) - 1.0) < tolerance
