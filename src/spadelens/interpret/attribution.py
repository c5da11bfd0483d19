"""`attribute`: the heatmap of one sample, on a trace, an ensemble of traces, or any model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from spadelens import defaults
from spadelens.errors import AttributionError, InputError, SpadeError, UnknownNameError
from spadelens.extract.capture import class_scores, evaluation_mode
from spadelens.extract.ensemble import TraceEnsemble
from spadelens.extract.perturbation import blurred
from spadelens.extract.sample import check_sample, check_target
from spadelens.extract.trace import Trace, applied_or_dense, swapped_weights
from spadelens.interpret.methods import METHODS, Attribution, Method
from spadelens.settings import configured_name, parse_configured, settings_of

Reduction: TypeAlias = Literal["sum_abs", "max_abs", "sum"]
REDUCTIONS: tuple[str, ...] = get_args(Reduction)


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Which pixels moved the score of a class.

    Attributes:
        values: The attribution reduced over channels, and blurred where that was asked for, `[H, W]`, on the CPU; not
            normalized, but for an ensemble, whose members' maps are divided by the sums of their absolute values before
            they are averaged.
        attribution: Signed, `[C, H, W]`, on the CPU; never blurred.
        target: The class whose score was attributed.
        method: The name of the method, with the settings that are not at their defaults.
        settings: All settings of the method.
        reduction: How channels were reduced.
        convergence_delta: By how much the attribution misses completeness; None for methods that do not promise it, and
            for an ensemble.
        blur: Standard deviation of the blur, as a fraction of the longer side.
    """

    values: Tensor
    attribution: Tensor
    target: int
    method: str
    settings: Mapping[str, Any]
    reduction: Reduction
    convergence_delta: float | None
    blur: float = 0.0

    @property
    def is_zero(self) -> bool:
        """Whether the map says nothing: it is zero everywhere."""
        return not bool(self.values.any())


def attribute(
    model: Trace | TraceEnsemble | nn.Module,
    sample: Tensor,
    method: str | Method = defaults.METHOD,
    target: int | None = None,
    reduction: Reduction = "sum_abs",
    blur: float = 0.0,
) -> Heatmap:
    """Return the heatmap of `sample` for one class, on a trace, on an ensemble of traces, or on a model as it is.

    The model is run in evaluation mode and is left exactly as it was.

    Args:
        model: A trace, an ensemble of traces, or a module that maps a batch of samples to class scores.
        sample: The input `[C, H, W]`, without a batch dimension.
        method: 'saliency', 'smoothgrad', 'input_x_gradient', 'integrated_gradients', 'gradient_shap' or 'occlusion',
            with settings as in 'integrated_gradients:num_steps=100', or a `Method`.
        target: The class to explain; by default the one that the model predicts, for a trace its *dense* model.
        reduction: How channels become one value a pixel: 'sum_abs' (of absolute values), 'max_abs', or 'sum' (signed).
        blur: Standard deviation of a Gaussian blur of the reduced map, as a fraction of its longer side; 0 for none.

    Returns:
        The heatmap, with the signed attribution behind it.

    Raises:
        InputError: An argument is out of range; UnknownNameError: there is no such method.
        ModelOutputError: The model fails on the sample, or does not return finite class scores.
        TraceMismatchError: The dense model has been changed since the trace was made.
        AttributionError: The method gives values that are not finite.
    """
    dense = model.dense_model if isinstance(model, Trace | TraceEnsemble) else model
    sample = check_sample(dense, sample)
    if sample.dim() < 3:
        raise InputError(f"Cannot draw a heatmap of a sample of shape {list(sample.shape)}: expected [C, H, W].")
    chosen = parse_configured("method", method, METHODS) if isinstance(method, str) else method
    if reduction not in REDUCTIONS:
        raise UnknownNameError("reduction", reduction, REDUCTIONS)
    if not 0 <= blur < 1 or (blur and sample.dim() != 3):
        raise InputError(f"Cannot blur a map with blur={blur!r}: expected a fraction of the side of a map [H, W].")
    scores = class_scores(dense, sample.unsqueeze(0))[0]
    target = int(scores.argmax()) if target is None else check_target(target, len(scores))
    if isinstance(model, TraceEnsemble):
        attribution, values = _mean_of_members(model, chosen, sample, target, reduction)
        delta = None
    else:
        with applied_or_dense(model):
            found = _run(chosen, dense, sample, target)
        attribution, delta = found.values, found.convergence_delta
        values = reduce_channels(attribution, reduction)
    if blur:
        values = blurred(values.unsqueeze(0), blur * max(values.shape))[0]
    return Heatmap(
        values=values,
        attribution=attribution,
        target=target,
        method=configured_name(chosen, METHODS),
        settings=settings_of(chosen),
        reduction=reduction,
        convergence_delta=delta,
        blur=blur,
    )


def _mean_of_members(
    ensemble: TraceEnsemble, method: Method, sample: Tensor, target: int, reduction: Reduction
) -> tuple[Tensor, Tensor]:
    """Return the weighted means of the members' attributions and reduced maps, each divided by its absolute sum.

    A map that is zero everywhere says nothing, and adds nothing. Members share out a method's random draws.
    """
    model = ensemble.dense_model
    ensemble.members[0].check(model)  # all members are of the same one
    models = [(trace.weights, weight) for trace, weight in zip(ensemble.members, ensemble.weights, strict=True)]
    if ensemble.dense_weight:
        models.append(({}, ensemble.dense_weight))
    total = sum(weight for _, weight in models)
    means: list[Tensor] = []
    for number, (weights, weight) in enumerate(models):
        with swapped_weights(model, weights):
            attribution = _run(method.share(number, len(models)), model, sample, target).values
        parts = (attribution, reduce_channels(attribution, reduction))
        sums = [float(part.abs().double().sum()) for part in parts]
        scaled = [part * (weight / total / size if size else 0.0) for part, size in zip(parts, sums, strict=True)]
        means = [mean + part for mean, part in zip(means, scaled, strict=True)] if means else scaled
    return means[0], means[1]


class _OnCopy(nn.Module):
    """A model that is given a copy of its input: it may begin with an operation in place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, inputs: Tensor) -> Any:
        return self.model(inputs.clone())


def _run(method: Method, model: nn.Module, sample: Tensor, target: int) -> Attribution:
    """Return what the method says of a sample `[C, H, W]`, without the batch dimension, on the CPU."""
    with evaluation_mode(model), torch.inference_mode(False), torch.enable_grad():
        batch = sample.unsqueeze(0).clone().requires_grad_()
        try:
            found = method.attribute(_OnCopy(model), batch, target)
        except SpadeError:
            raise
        except Exception as error:
            raise AttributionError(
                f"The method {configured_name(method, METHODS)!r} cannot be run on this model: "
                f"{type(error).__name__}: {error}"
            ) from error
    values, delta = found.values.detach().cpu()[0], found.convergence_delta
    if not bool(torch.isfinite(values).all()) or (delta is not None and not math.isfinite(delta)):
        raise AttributionError(
            f"The method {configured_name(method, METHODS)!r} gives values that are not finite on this model and "
            "sample, or at the method's baseline. Try another method, another baseline, or float32."
        )
    return Attribution(values, delta)


def reduce_channels(attribution: Tensor, reduction: Reduction = "sum_abs") -> Tensor:
    """Return the attribution of one sample, `[C, H, W]` or `[C, D, H, W]`, without its first axis, the channels.

    In float32 or wider.
    """
    values = attribution if attribution.dtype == torch.float64 else attribution.float()
    if reduction == "sum":
        return values.sum(0)
    return values.abs().sum(0) if reduction == "sum_abs" else values.abs().amax(0)
