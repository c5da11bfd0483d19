"""`attribute`: the heatmap of one sample, on a trace or on any model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from spadelens import defaults
from spadelens.errors import AttributionError, InputError, SpadeError, UnknownNameError
from spadelens.extract.capture import class_scores, evaluation_mode
from spadelens.extract.sample import check_sample, check_target
from spadelens.extract.trace import Trace
from spadelens.interpret.methods import METHODS, Attribution, Method
from spadelens.settings import configured_name, parse_configured, settings_of

Reduction: TypeAlias = Literal["sum_abs", "max_abs", "sum"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Which pixels moved the score of a class.

    Attributes:
        values: The attribution reduced over channels, `[H, W]`, on the CPU; not normalized.
        attribution: Signed, `[C, H, W]`, on the CPU.
        target: The class whose score was attributed.
        method: The name of the method, with the settings that are not at their defaults.
        settings: All settings of the method.
        reduction: How channels were reduced.
        convergence_delta: By how much the attribution misses completeness; None for methods that do not promise it.
    """

    values: Tensor
    attribution: Tensor
    target: int
    method: str
    settings: Mapping[str, Any]
    reduction: Reduction
    convergence_delta: float | None

    @property
    def is_zero(self) -> bool:
        """Whether the map says nothing: it is zero everywhere."""
        return not bool(self.values.any())


def attribute(
    model: Trace | nn.Module,
    sample: Tensor,
    method: str | Method = defaults.METHOD,
    target: int | None = None,
    reduction: Reduction = "sum_abs",
) -> Heatmap:
    """Return the heatmap of `sample` for one class, on a trace or on a model as it is.

    The model is run in evaluation mode and is left exactly as it was.

    Args:
        model: A trace, or a module that maps a batch of samples to class scores.
        sample: The input `[C, H, W]`, without a batch dimension.
        method: 'saliency', 'input_x_gradient', 'integrated_gradients', 'gradient_shap' or 'occlusion', with settings as
            in 'integrated_gradients:num_steps=100', or a `Method`.
        target: The class to explain; by default the one that the model predicts, for a trace its *dense* model.
        reduction: How channels become one value a pixel: 'sum_abs' (of absolute values), 'max_abs', or 'sum' (signed).

    Returns:
        The heatmap, with the signed attribution behind it.

    Raises:
        InputError: An argument is out of range; UnknownNameError: there is no such method.
        ModelOutputError: The model fails on the sample, or does not return finite class scores.
        TraceMismatchError: The dense model has been changed since the trace was made.
        AttributionError: The method gives values that are not finite.
    """
    dense = model.dense_model if isinstance(model, Trace) else model
    sample = check_sample(dense, sample)
    if sample.dim() < 3:
        raise InputError(f"Cannot draw a heatmap of a sample of shape {list(sample.shape)}: expected [C, H, W].")
    chosen = parse_configured("method", method, METHODS) if isinstance(method, str) else method
    if reduction not in REDUCTIONS:
        raise UnknownNameError("reduction", reduction, REDUCTIONS)
    scores = class_scores(dense, sample.unsqueeze(0))[0]
    target = int(scores.argmax()) if target is None else check_target(target, len(scores))
    weights: AbstractContextManager[Any] = model.applied(dense) if isinstance(model, Trace) else nullcontext()
    with weights, evaluation_mode(dense), torch.inference_mode(False), torch.enable_grad():
        batch = sample.unsqueeze(0).clone().requires_grad_()
        found = _run(chosen, _OnCopy(dense), batch, target)
    values = found.values.detach().cpu()[0]
    delta = found.convergence_delta
    if not bool(torch.isfinite(values).all()) or (delta is not None and not math.isfinite(delta)):
        raise AttributionError(
            f"The method {configured_name(chosen, METHODS)!r} gives values that are not finite on this model and "
            "sample, or at the method's baseline. Try another method, another baseline, or float32."
        )
    return Heatmap(
        values=reduce_channels(values, reduction),
        attribution=values,
        target=target,
        method=configured_name(chosen, METHODS),
        settings=settings_of(chosen),
        reduction=reduction,
        convergence_delta=found.convergence_delta,
    )


class _OnCopy(nn.Module):
    """A model that is given a copy of its input: it may begin with an operation in place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, inputs: Tensor) -> Any:
        return self.model(inputs.clone())


def _run(method: Method, model: nn.Module, batch: Tensor, target: int) -> Attribution:
    try:
        return method.attribute(model, batch, target)
    except SpadeError:
        raise
    except Exception as error:
        raise AttributionError(
            f"The method {configured_name(method, METHODS)!r} cannot be run on this model: "
            f"{type(error).__name__}: {error}"
        ) from error


def reduce_channels(attribution: Tensor, reduction: Reduction = "sum_abs") -> Tensor:
    """Return the attribution of one sample, `[C, H, W]` or `[C, D, H, W]`, without its first axis, the channels.

    In float32 or wider.
    """
    values = attribution if attribution.dtype == torch.float64 else attribution.float()
    if reduction == "sum":
        return values.sum(0)
    return values.abs().sum(0) if reduction == "sum_abs" else values.abs().amax(0)
