"""`visualize`: images that a unit responds to most, found by gradient ascent, on a trace or any model.

After Olah et al. (2017): the image is made of Fourier coefficients of decorrelated colors, and is randomly
shifted, rotated and zoomed in every step. On a trace, the images show what the unit responds to in the trace's sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final, overload

import numpy as np
import torch
from torch import Tensor, nn

from spadelens.eager import unwrapped
from spadelens.errors import InputError, VisualizationError
from spadelens.extraction.trace import Trace, runnable
from spadelens.forward import running
from spadelens.photos import Preprocessing
from spadelens.progress import ProgressLike
from spadelens.progress_bars import reporting
from spadelens.snippets import shortened
from spadelens.visualization.ascent import Ascent, GradientAscent
from spadelens.visualization.objectives import ObjectiveLike, as_objective, describe_objective, evaluate

_FULL_OPACITY = 0.99  # quantile


@final
@dataclass(frozen=True, eq=False)
class Visualization:
    """Images that a unit of one model responds to.

    Attributes:
        images: Colors in [0, 1], `[N, C, H, W]`, on the CPU; for a 'direct' parameterization, the inputs themselves.
        opacity: How much the objective depended on each place on the way, `[N, H, W]` in [0, 1]: the sum over all steps
            and channels of the absolute gradient, over its 99th percentile (Fel et al. 2023). Of a 'direct'
            parameterization each number of an input counts by itself, `[N, ...]`.
        objective: What was maximized.
        curve: The objective in each step, on transformed images, `[steps, N]`.
        settings: All settings.
    """

    images: Tensor
    opacity: Tensor
    objective: str
    curve: Tensor
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        """Summarize the images."""
        count, *shape = self.images.shape
        size = " x ".join(map(str, shape))
        unit = shortened(self.objective, 150)
        return f"<Visualization of {unit}: {count} images {size} after {len(self.curve)} steps>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from spadelens.visualization.visualization_shown import visualization_html

        return visualization_html(self)


@overload
def visualize(
    models: Trace | nn.Module,
    objective: str | int | ObjectiveLike,
    preprocessing: Preprocessing | Sequence[int],
    ascent: Ascent | None = None,
    progress: ProgressLike | None = None,
    checkpoint: Path | None = None,
    *,
    versus: int | None = None,
) -> Visualization: ...


@overload
def visualize(
    models: Sequence[Trace | nn.Module],
    objective: str | int | ObjectiveLike,
    preprocessing: Preprocessing | Sequence[int],
    ascent: Ascent | None = None,
    progress: ProgressLike | None = None,
    checkpoint: Path | None = None,
    *,
    versus: int | None = None,
) -> list[Visualization]: ...


@torch.inference_mode(False)
def visualize(
    models: Trace | nn.Module | Sequence[Trace | nn.Module],
    objective: str | int | ObjectiveLike,
    preprocessing: Preprocessing | Sequence[int],
    ascent: Ascent | None = None,
    progress: ProgressLike | None = None,
    checkpoint: Path | None = None,
    *,
    versus: int | None = None,
) -> Visualization | list[Visualization]:
    """Return images that a unit responds to, in one model or in each of several, from the same random starts.

    Private copies of the models are run in evaluation mode; the models themselves are not changed. Each step takes a
    forward and a backward pass per model, one model at a time. Every image equals the one that its model and its
    number give separately, up to floating-point differences.

    Args:
        models: A trace, or a module that maps a batch to class scores `[batch, classes]`; or a sequence of them.
        objective: What to maximize: the number of a class; a string as in `parse_objective`, such as 'class:7' or
            'layer4:12'; an `Objective`; or a callable that maps a model and a batch of inputs to one number per input,
            `[batch]`.
        preprocessing: The size and normalization of the models' inputs. Or just the shape of an input, `[C, H, W]` or
            any other, which is then not normalized.
        ascent: The settings of the ascent; by default 512 steps from one start.
        progress: True for a progress bar, as in `extract_trace`; or called as progress('visualize', steps done, all
            steps).
        checkpoint: A file that stores the state every 64 steps. An interrupted run resumes from it as if it had never
            been interrupted (on a GPU, up to floating-point differences). It is deleted at the end. Not available for a
            callable, which cannot be identified later.
        versus: Another class, as in `attribute`: its score is subtracted from that of the class to maximize.

    Returns:
        The images; for a sequence of models a list with those of each, in order.

    Raises:
        InputError: An argument is out of range, the class, layer or unit does not exist, or the checkpoint belongs to
            another run.
        ModelOutputError: A model fails on the images.
        TraceMismatchError: The original model has changed since a trace was made.
        VisualizationError: The objective is not finite, or does not depend on the image anywhere near the start.
    """
    if isinstance(models, Trace | nn.Module):
        return visualize([models], objective, preprocessing, ascent, progress, checkpoint, versus=versus)[0]
    if not models:
        raise InputError("Cannot visualize a unit: expected a model or a sequence of at least one.")
    ascent = ascent or Ascent()
    parsed = as_objective(objective, versus)
    with torch.enable_grad(), reporting(progress) as report:
        gradient_ascent = GradientAscent(models, parsed, preprocessing, ascent)
        gradient_ascent.run(report, checkpoint)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    images, reliance, curve = gradient_ascent.found()
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


def respond(
    model: Trace | nn.Module,
    objective: str | int | ObjectiveLike,
    inputs: Tensor,
    preprocessing: Preprocessing | None = None,
    *,
    versus: int | None = None,
) -> Tensor:
    """Return the response of a unit of a trace or model to each of the inputs, `[N]`, on the CPU.

    A private copy of the model is run in evaluation mode, without gradients; the model itself is not changed.

    Args:
        model: A trace, or a module that maps a batch to class scores `[batch, classes]`.
        objective: The unit, as in `visualize`.
        inputs: A batch as the model expects it; with a `preprocessing`, colors in [0, 1], `[N, C, H, W]`.
        preprocessing: The normalization to apply to the colors.
        versus: Another class, as in `visualize`.

    Raises:
        InputError: There is no such class, layer or unit.
        ModelOutputError: The model fails on the batch.
        TraceMismatchError: The original model has changed since the trace was made.
        VisualizationError: The unit's values are not finite.
    """
    dense = unwrapped(model.original_model if isinstance(model, Trace) else model)
    parsed = as_objective(objective, versus)
    first = next((each for each in dense.parameters() if each.is_floating_point()), inputs)
    if preprocessing is not None:
        mean, std = (inputs.new_tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        inputs = (inputs - mean) / std
    with running(runnable(model)) as private, torch.no_grad():
        values = evaluate(parsed, private, inputs.to(first.device, first.dtype, copy=True)).cpu()
    if not bool(torch.isfinite(values).all()):
        raise VisualizationError(f"The unit {describe_objective(parsed)!r} gives values that are not finite.")
    return values


def _opacity(reliance: Tensor) -> Tensor:
    """Return what each place counts `[N, ...]`, scaled to [0, 1]."""
    scaled = []
    for part in reliance.double():
        full = float(np.quantile(part.numpy(), _FULL_OPACITY))  # torch's has a limit of size
        full = full if full > 0 else float(part.max())  # the ascent was refused where all is zero
        scaled.append((part / full).clamp(0, 1).float())
    return torch.stack(scaled)
