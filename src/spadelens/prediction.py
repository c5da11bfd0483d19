"""Predictions: probabilities from the scores of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from spadelens.errors import UnknownNameError

Outputs: TypeAlias = Literal["classes", "labels"]
"""What the scores of a model are for: 'classes', of which one is right, or 'labels', of which any number may apply."""
Scale: TypeAlias = Literal["logits", "probabilities", "label logits", "label probabilities"]
"""What kind of numbers the scores are; see `scale_of`."""
OUTPUTS: tuple[str, ...] = get_args(Outputs)


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for a sample.

    Attributes:
        probabilities: Of every class or label; see `predict`.
        outputs: Whether they are those of classes, which add up to 1, or of labels, each independent of the others.
    """

    probabilities: tuple[float, ...]
    outputs: Outputs = "classes"

    @property
    def class_index(self) -> int:
        """The most likely class or label; the first one in case of a tie."""
        return max(range(len(self.probabilities)), key=self.probabilities.__getitem__)

    @property
    def probability(self) -> float:
        """The probability of the most likely class or label."""
        return self.probabilities[self.class_index]

    @property
    def answer(self) -> tuple[int, ...]:
        """The decision of the model: the most likely class, or every label with a probability of at least one half."""
        if self.outputs == "classes":
            return (self.class_index,)
        return tuple(index for index, probability in enumerate(self.probabilities) if probability >= 0.5)

    def top(self, count: int) -> list[tuple[int, float]]:
        """Return (class, probability) of the `count` most likely classes, in descending order."""
        ranked = sorted(range(len(self.probabilities)), key=lambda index: -self.probabilities[index])
        return [(index, self.probabilities[index]) for index in ranked[:count]]


def check_outputs(outputs: str | None) -> None:
    """Reject what is not a kind of outputs.

    Raises:
        UnknownNameError: It is not.
    """
    if outputs is not None and outputs not in OUTPUTS:
        raise UnknownNameError("kind of outputs", outputs, OUTPUTS)


def scale_of(scores: Tensor, outputs: Outputs | None = None, is_after_sigmoid: bool = False) -> Scale:
    """Return what kind of numbers the scores `[classes]` of a model are; see `forward.scale_for`, which asks the model.

    Args:
        scores: Of a sample.
        outputs: What the caller says; None to find out.
        is_after_sigmoid: Whether the model ends in a sigmoid.
    """
    tolerance = max(1e-3, 8 * torch.finfo(scores.dtype).eps)
    is_distribution = bool((scores >= 0).all()) and abs(float(scores.detach().cpu().double().sum()) - 1.0) < tolerance
    if outputs == "labels" or (outputs is None and is_after_sigmoid and not is_distribution):
        return "label probabilities" if is_after_sigmoid else "label logits"
    return "probabilities" if is_distribution else "logits"


def probabilities_of(scores: Tensor, scale: Scale) -> Tensor:
    """Return the probabilities `[..., classes]` that scores on a scale stand for."""
    if scale == "logits":
        return scores.softmax(-1)
    if scale == "label logits":
        return scores.sigmoid()
    return scores / scores.sum(-1, keepdim=True) if scale == "probabilities" else scores.clamp(0, 1)


def predict(scores: Tensor, scale: Scale) -> Prediction:
    """Return the prediction for one sample from its scores `[classes]` on a scale."""
    outputs: Outputs = "labels" if scale.startswith("label") else "classes"
    return Prediction(tuple(probabilities_of(scores.detach().cpu().double(), scale).tolist()), outputs)


def answers(scores: Tensor, scale: Scale) -> Tensor:
    """Return what scores `[batch, classes]` decide: the class `[batch, 1]`, or which labels apply `[batch, labels]`."""
    if scale.startswith("label"):
        return probabilities_of(scores, scale) >= 0.5
    return scores.argmax(-1, keepdim=True)
