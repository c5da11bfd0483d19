"""What a trace must keep of the original model's behavior: the criteria of searched schedules.

Each criterion maps a sparse model to a number that is 1 if nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor, nn

from spadelens.extraction.pipeline.perturbation import area, probability_curve
from spadelens.forward import class_scores, running
from spadelens.prediction import Prediction, Scale, answers, predict
from spadelens.views.view_source import ViewSource

_NUM_INSERTION_STEPS = 24


@dataclass(frozen=True, eq=False)
class ExplainedSample:
    """A sample with the prediction that is to be kept.

    Attributes:
        model: A private copy of the original model.
        sample: `[C, H, W]`.
        target: The explained class.
        prediction: What the original model predicts for the sample.
        scale: What kind of numbers the scores are.
        source: The views of the sample.
        batch_size: Views per forward pass.
    """

    model: nn.Module
    sample: Tensor
    target: int
    prediction: Prediction
    scale: Scale
    source: ViewSource
    batch_size: int

    def predict(self) -> Prediction:
        """Return what the model, with the weights that it holds now, predicts for the sample."""
        return predict(class_scores(self.model, self.sample.unsqueeze(0))[0], self.scale)


Swap: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Puts the sparse weights into the private copy inside a block."""
Kept: TypeAlias = Callable[[Swap, Prediction], float]
"""Given a sparse model and what it predicts for the sample, returns how much is kept."""


def kept_probability(explained: ExplainedSample) -> Kept:
    """Measure the probability of the explained class on the sample, over that of the original model.

    Nothing counts as kept where the explained class was the likeliest and is so no longer.
    """
    dense = explained.prediction.probabilities[explained.target]

    def kept(swap: Swap, sparse: Prediction) -> float:
        del swap
        if _is_lost(explained, sparse):
            return 0.0
        return sparse.probabilities[explained.target] / dense if dense > 0 else 1.0

    return kept


def kept_prediction(explained: ExplainedSample) -> Kept:
    """Measure whether the sample is predicted the same: 1 or 0."""
    return lambda _, sparse: float(sparse.answer == explained.prediction.answer)


def kept_agreement(explained: ExplainedSample) -> Kept:
    """Measure the fraction of held-out views, and of the sample, that are predicted the same."""

    def classes() -> Tensor:
        views = [explained.sample.unsqueeze(0), *explained.source.held_out_batches(explained.batch_size)]
        return torch.cat([answers(class_scores(explained.model, batch), explained.scale) for batch in views])

    dense = classes()

    def kept(swap: Swap, sparse: Prediction) -> float:
        del sparse
        with swap():
            return float((classes() == dense).all(1).cpu().double().mean())

    return kept


def kept_insertion(explained: ExplainedSample) -> Kept:
    """Measure how well the sparse model's saliency map finds what the original model needs, against the dense map.

    The pixels of the sample are put into a blurred copy of it, those of the largest gradients (sums of absolute values
    over channels) first, in 24 steps; the area under the original model's probability of the explained class is
    compared with what the dense saliency map gives. Nothing counts as kept where the explained class was the likeliest
    and is so no longer.
    """
    dense = _insertion_area(explained, _saliency(explained))

    def kept(swap: Swap, sparse: Prediction) -> float:
        if _is_lost(explained, sparse):
            return 0.0
        with swap():
            heatmap = _saliency(explained)
        return _insertion_area(explained, heatmap) / dense if dense > 0 else 1.0

    return kept


CRITERIA: Mapping[str, Callable[[ExplainedSample], Kept]] = MappingProxyType(
    {
        "probability": kept_probability,
        "prediction": kept_prediction,
        "insertion": kept_insertion,
        "agreement": kept_agreement,
    }
)


def _is_lost(explained: ExplainedSample, sparse: Prediction) -> bool:
    """Whether the explained class is no longer the likeliest, or the explained label no longer applies."""
    if explained.prediction.outputs == "labels":
        return explained.target in explained.prediction.answer and explained.target not in sparse.answer
    return explained.prediction.class_index == explained.target != sparse.class_index


def _saliency(explained: ExplainedSample) -> Tensor:
    with running(explained.model) as model, torch.enable_grad():
        batch = explained.sample.unsqueeze(0).clone().requires_grad_()
        score = model(batch.clone())[0, explained.target]
        (gradient,) = torch.autograd.grad(score, batch)
    return gradient[0].abs().sum(0)


def _insertion_area(explained: ExplainedSample, heatmap: Tensor) -> float:
    curve = probability_curve(
        explained.model,
        explained.sample,
        heatmap,
        explained.target,
        direction="insertion",
        baseline="blur",
        num_steps=_NUM_INSERTION_STEPS,
        scale=explained.scale,
        batch_size=explained.batch_size,
    )
    return area(curve)
