"""`visualize`: an image that a unit responds to most, found by gradient ascent, on a trace or on any model.

After Olah et al. (2017): the image is made of Fourier coefficients of decorrelated colors, and is shifted, turned and
zoomed at random in every step. On a trace, what is left of the unit is what it responds to in the trace's sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.extract.trace import Trace
from spadelens.interpret.ascent import Ascent, Climb, Progress
from spadelens.interpret.objectives import Objective, ObjectiveLike, describe_objective, parse_objective
from spadelens.photos import Preprocessing

_FULL_OPACITY = 0.99  # quantile


@final
@dataclass(frozen=True, eq=False)
class Visualization:
    """Images that a unit of one model responds to.

    Attributes:
        images: Colors in [0, 1], `[N, C, H, W]`, on the CPU; of a 'direct' parameterization the inputs as they are.
        opacity: How much the objective depended on each place on the way, `[N, H, W]` in [0, 1]: the sum over all steps
            of the absolute gradient, over its 99th percentile (Fel et al. 2023).
        objective: What was maximized.
        curve: The objective in each step, on transformed images, `[steps, N]`.
        settings: All settings.
    """

    images: Tensor
    opacity: Tensor
    objective: str
    curve: Tensor
    settings: Mapping[str, Any]


def visualize(
    model: Trace | nn.Module,
    objective: str | ObjectiveLike,
    preprocessing: Preprocessing | Sequence[int],
    ascent: Ascent | None = None,
    progress: Progress | None = None,
) -> Visualization:
    """Return images that a unit of a trace, or of a model as it is, responds to; as `visualize_all` for one model."""
    return visualize_all([model], objective, preprocessing, ascent, progress)[0]


@torch.inference_mode(False)
def visualize_all(
    models: Sequence[Trace | nn.Module],
    objective: str | ObjectiveLike,
    preprocessing: Preprocessing | Sequence[int],
    ascent: Ascent | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
) -> list[Visualization]:
    """Return images that a unit responds to, for each of several models, from the same starts.

    Models are run in evaluation mode and are left exactly as they were. Each step takes a forward and a backward pass
    of every model, one after the other.

    Args:
        models: Traces, or modules that map a batch to class scores `[batch, classes]`.
        objective: What to maximize: a text as in `parse_objective`, such as 'class:7' or 'layer4:12'; an `Objective`;
            or a callable from a model and a batch of inputs to one number for each, `[batch]`.
        preprocessing: What the models expect: the size and the normalization of their inputs. Or just the shape of an
            input, `[C, H, W]` or any other, which is then not normalized.
        ascent: How images are found; by default in 512 steps from one start.
        progress: Called as progress('visualize', steps done, all steps).
        checkpoint: A file to which everything is written every 64 steps, and from which an interrupted run goes on as
            if it had never been interrupted. It is deleted at the end.

    Returns:
        One result for each model, in order.

    Raises:
        InputError: An argument is out of range, there is no such layer or unit, or the checkpoint is of another run.
        ModelOutputError: A model fails on the images.
        TraceMismatchError: The dense model has been changed since a trace was made.
        VisualizationError: The objective is not finite, or does not depend on the image anywhere near the start.
    """
    if isinstance(models, Trace | nn.Module) or not models:
        raise InputError("Cannot visualize a unit: expected a sequence of at least one model.")
    ascent = ascent or Ascent()
    parsed = parse_objective(objective) if isinstance(objective, str) else objective
    if not isinstance(parsed, Objective) and not callable(parsed):
        raise InputError(f"Cannot maximize {parsed!r}: expected a text, an Objective or a callable.")
    with torch.enable_grad():
        climb = Climb(models, parsed, preprocessing, ascent)
        climb.run(progress or _no_progress, checkpoint)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    images, reliance, curve = climb.found()
    return [
        Visualization(
            images=images[number].float(),
            opacity=_opacity(reliance[number]),
            objective=describe_objective(parsed),
            curve=curve[:, number],
            settings=ascent.described(),
        )
        for number in range(len(models))
    ]


def _opacity(reliance: Tensor) -> Tensor:
    flat = reliance.flatten(1).double()
    full = flat.quantile(_FULL_OPACITY, dim=1, keepdim=True)
    full = torch.where(full > 0, full, flat.amax(1, keepdim=True))  # the ascent was refused where all is zero
    return (flat / full).clamp(0, 1).float().view_as(reliance)


def _no_progress(stage: str, done: int, total: int) -> None:
    del stage, done, total
