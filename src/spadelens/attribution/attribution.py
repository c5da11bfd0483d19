"""`attribute`: the heatmap of one sample, on a trace, an ensemble of traces, or any model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spadelens import defaults
from spadelens.attribution.contrast import Contrast
from spadelens.attribution.heatmap import Heatmap
from spadelens.attribution.running import Question, run_method
from spadelens.attribution.soundness import Soundness, check_soundness, find_last_layer
from spadelens.eager import unwrapped
from spadelens.errors import AttributionError, InputError, UnknownNameError
from spadelens.extraction.ensemble import TraceEnsemble
from spadelens.extraction.pipeline.perturbation import blurred
from spadelens.extraction.report import TraceReport
from spadelens.extraction.trace import Trace, runnable, swapped_weights
from spadelens.forward import check_repeatable, class_scores
from spadelens.inputs.checks import check_sample, check_target
from spadelens.inputs.kind import kind_of
from spadelens.kinds import REDUCTIONS, Kind, Reduction, reduce_to_units
from spadelens.methods.method import Method
from spadelens.methods.registry import METHODS
from spadelens.models.embedded import EmbeddedText
from spadelens.settings import configured_name, parse_configured, settings_of

__all__ = ["Heatmap", "attribute"]


def attribute(
    model: Trace | TraceEnsemble | nn.Module,
    sample: Tensor,
    method: str | Method = defaults.METHOD,
    *,
    target: int | None = None,
    versus: int | None = None,
    reduction: Reduction = "sum_abs",
    blur: float = 0.0,
    check: bool = True,
    kind: Kind | None = None,
) -> Heatmap:
    """Return the heatmap of `sample` for one class, on a trace, an ensemble of traces or a model.

    A private copy of the model is run in evaluation mode; the model itself is not changed.

    Args:
        model: A trace, an ensemble of traces, or a module that maps a batch of samples to class scores.
        sample: The input without a batch dimension: a photo `[C, H, W]`, a signal `[C, T]`, a volume `[C, D, H, W]`, a
            text `[tokens, features]` or a row of a table `[features]`.
        method: 'saliency', 'smoothgrad', 'input_x_gradient', 'integrated_gradients', 'gradient_shap', 'deep_lift',
            'lrp', 'guided_backprop', 'grad_cam', 'guided_grad_cam', 'occlusion', 'lime' or 'score_cam', optionally with
            settings, such as 'lrp:rule=epsilon-gamma'; or a `Method`.
        target: The class to explain; by default the class that a trace was made for or that a model predicts.
        versus: Another class: the map then explains the score of the target minus the score of this class. With the
            reduction 'sum', what speaks for the target is positive, and what speaks for the other class negative.
        reduction: How the channels of a pixel, or the features of a token, become one value: 'sum_abs' (sum of absolute
            values), 'max_abs' or 'sum' (signed). The value of a feature becomes absolute, or stays signed for 'sum'.
        blur: Standard deviation of a Gaussian blur of a photo's map, as a fraction of its longer side; 0 for none.
        check: Whether to check that the attribution is sound. This takes as long as the attribution itself, or up to
            five times as long if the map does not change. The result is in the `soundness` of the heatmap.
        kind: The kind of input, if the model does not determine it; see `inputs.kind.kind_of`. A trace stores it.

    Returns:
        The heatmap, with the signed attribution behind it.

    Raises:
        InputError: An argument is out of range.
        UnknownNameError: The method does not exist.
        ModelOutputError: The model fails on the sample, or does not return finite class scores.
        TraceMismatchError: The original model has changed since the trace was made.
        AttributionError: The method cannot be applied soundly to the model, or gives values that are not finite.
    """
    dense = unwrapped(model.original_model if isinstance(model, Trace | TraceEnsemble) else model)
    sample = check_sample(dense, sample)
    chosen = parse_configured("method", method, METHODS) if isinstance(method, str) else method
    if reduction not in REDUCTIONS:
        raise UnknownNameError("reduction", reduction, REDUCTIONS)
    private = runnable(dense)  # each call has a copy of its own: other threads may be running the model
    report = model.report if isinstance(model, Trace | TraceEnsemble) else None
    kind = kind_of(private, sample, report.kind if kind is None and report is not None else kind)
    if not isinstance(blur, int | float) or not 0 <= blur < 1 or (blur and kind != "photo"):
        raise InputError(f"Cannot blur a map with blur={blur!r}: expected a fraction of the side of a map [H, W].")
    target = _explained_class(private, sample, target, report)
    asked = target
    if versus is not None:
        versus = _other_class(private, sample, target, versus)
        private, asked = Contrast(private, target, versus), 0
    question = Question(sample, asked, kind)
    last_layer = find_last_layer(private, sample, asked) if check else None
    soundness = None
    if isinstance(model, TraceEnsemble):
        attribution, values = _mean_of_members(model, private, chosen, question, reduction)
        delta = None
        if check:
            soundness = _of_first_member(model, private, chosen, question, last_layer)
    else:
        explained = private
        if isinstance(model, Trace):
            explained = runnable(model) if versus is None else Contrast(runnable(model), target, versus)
        found = run_method(chosen, explained, question)
        if check:
            soundness = check_soundness(chosen, explained, question, found, last_layer)
        attribution, delta = found.values, found.convergence_delta
        values = reduce_to_units(attribution, kind, reduction)
    if not bool(torch.isfinite(values).all()):
        raise AttributionError(
            f"Cannot reduce the attribution to one value for each unit: the reduction {reduction!r} overflows in "
            f"{values.dtype}. Use 'max_abs' or float64."
        )
    if blur:
        values = blurred(values.unsqueeze(0), blur * max(values.shape))[0]
    return Heatmap(
        values=values,
        attribution=attribution,
        target=target,
        versus=versus,
        method=configured_name(chosen, METHODS),
        settings=settings_of(chosen),
        reduction=reduction,
        kind=kind,
        convergence_delta=delta,
        blur=blur,
        soundness=soundness,
        names=dense.tokens if isinstance(dense, EmbeddedText) and kind == "text" else (),
    )


def _explained_class(model: nn.Module, sample: Tensor, target: int | None, report: TraceReport | None) -> int:
    """Return the class that is asked for: given, that of a trace, or the predicted one."""
    scores = class_scores(model, sample.unsqueeze(0))[0]
    if report is None:  # extraction has checked the model of a trace
        check_repeatable(model, sample, scores)
    if target is None:
        target = int(scores.argmax()) if report is None else report.target
    return check_target(target, len(scores))


def _other_class(model: nn.Module, sample: Tensor, target: int, versus: int) -> int:
    """Return the class to compare with."""
    versus = check_target(versus, len(class_scores(model, sample.unsqueeze(0))[0]))
    if versus == target:
        raise InputError(f"Cannot compare the class {target} with itself: name another class.")
    return versus


def _of_first_member(
    ensemble: TraceEnsemble, model: nn.Module, method: Method, question: Question, last_layer: str | None
) -> Soundness:
    share = method.share(0, len(ensemble.members) + bool(ensemble.original_weight))
    with swapped_weights(model, ensemble.members[0].weights):
        found = run_method(share, model, question)
        return check_soundness(share, model, question, found, last_layer)


def _mean_of_members(
    ensemble: TraceEnsemble, model: nn.Module, method: Method, question: Question, reduction: Reduction
) -> tuple[Tensor, Tensor]:
    """Return the weighted means of the members' attributions and reduced maps, each divided by its absolute sum.

    A map that is zero everywhere contributes nothing. The members divide a method's random draws among themselves.
    """
    ensemble.members[0].check(ensemble.original_model)  # all members are of the same one
    models = [(trace.weights, weight) for trace, weight in zip(ensemble.members, ensemble.weights, strict=True)]
    if ensemble.original_weight:
        models.append(({}, ensemble.original_weight))
    total = sum(weight for _, weight in models)
    means: list[Tensor] = []
    for number, (weights, weight) in enumerate(models):
        with swapped_weights(model, weights):
            attribution = run_method(method.share(number, len(models)), model, question).values
        parts = (attribution, reduce_to_units(attribution, question.kind, reduction))
        sums = [float(part.abs().double().sum()) for part in parts]
        if not all(math.isfinite(size) for size in sums):
            raise AttributionError(
                "Cannot average the maps of the ensemble: the values of a member's map overflow. Use float32."
            )
        scaled = [part * (weight / total / size if size else 0.0) for part, size in zip(parts, sums, strict=True)]
        if not all(bool(torch.isfinite(part).all()) for part in scaled):
            raise AttributionError(
                f"Cannot average the maps of the ensemble: the values of a member's map are too small to be averaged "
                f"in {attribution.dtype} (their absolute values add up to {min(sums):.3g}). Use float64."
            )
        means = [mean + part for mean, part in zip(means, scaled, strict=True)] if means else scaled
    return means[0], means[1]
