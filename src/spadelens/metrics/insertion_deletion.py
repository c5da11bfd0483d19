"""Faithfulness of a heatmap by insertion and deletion, judged by any model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.extraction.pipeline.perturbation import Baseline, PerturbationDirection, area, probability_curve
from spadelens.extraction.trace import runnable
from spadelens.forward import class_scores, scale_for
from spadelens.inputs.checks import check_sample, check_target
from spadelens.metrics.map_values import MapLike, map_values
from spadelens.views.view_source import check_count

_NUM_STEPS, _BATCH_SIZE = 32, 16


@dataclass(frozen=True)
class Faithfulness:
    """How well a heatmap's pixel ranking matches what a model needs.

    Attributes:
        insertion: Area under the probability of the class while pixels are added, in [0, 1]; higher is better.
        deletion: The same while pixels are removed; lower is better.
    """

    insertion: float
    deletion: float


def faithfulness(
    judge: nn.Module,
    sample: Tensor,
    heatmap: MapLike,
    target: int,
    *,
    insertion_baseline: Baseline = "blur",
    deletion_baseline: Baseline = "mean",
    num_steps: int = _NUM_STEPS,
    batch_size: int = _BATCH_SIZE,
) -> Faithfulness:
    """Return insertion and deletion of a heatmap (Petsiuk et al. 2018).

    With the original network as the judge of a trace's heatmap, it says how relevant the trace is to the original
    network (appendix J of the paper).

    Args:
        judge: The model to run.
        sample: `[C, H, W]`.
        heatmap: A `Heatmap`, a tensor or an array, `[H, W]`, finite; pixels follow in descending order, with ties in
            random order.
        target: The class.
        insertion_baseline: The image that pixels are added to: 'blur', the sample after a Gaussian blur of a tenth of
            its longer side, or 'mean', its mean color.
        deletion_baseline: The image that replaces removed pixels.
        num_steps: The number of steps.
        batch_size: Images per forward pass.

    Raises:
        InputError: Shapes do not fit, the heatmap is not finite, or an argument is out of range.
        ModelOutputError: The judge fails.
    """
    steps = {"num_steps": num_steps, "batch_size": batch_size}
    return Faithfulness(
        insertion=_area(judge, sample, heatmap, target, "insertion", insertion_baseline, **steps),
        deletion=_area(judge, sample, heatmap, target, "deletion", deletion_baseline, **steps),
    )


def insertion(judge: nn.Module, sample: Tensor, heatmap: MapLike, target: int) -> float:
    """Return only the insertion score of `faithfulness`, at half the cost; arguments and errors are the same."""
    return _area(judge, sample, heatmap, target, "insertion", "blur", num_steps=_NUM_STEPS, batch_size=_BATCH_SIZE)


def _area(
    judge: nn.Module,
    sample: Tensor,
    heatmap: MapLike,
    target: int,
    direction: PerturbationDirection,
    baseline: Baseline,
    num_steps: int,
    batch_size: int,
) -> float:
    sample, values = check_sample(judge, sample), map_values(heatmap)
    judge = runnable(judge)
    check_count(num_steps, "num_steps", at_least=1)
    check_count(batch_size, "batch_size", at_least=1)
    if sample.dim() != 3 or values.shape != sample.shape[1:] or not bool(torch.isfinite(values).all()):
        raise InputError(
            f"Cannot judge a heatmap {list(values.shape)} of a sample {list(sample.shape)}: expected finite values "
            "[H, W] for a sample [C, H, W]."
        )
    scores = class_scores(judge, sample.unsqueeze(0))[0]
    check_target(target, len(scores))
    curve = probability_curve(
        judge,
        sample,
        values,
        target,
        direction=direction,
        baseline=baseline,
        num_steps=num_steps,
        scale=scale_for(judge, sample, scores),
        batch_size=batch_size,
    )
    return area(curve)
