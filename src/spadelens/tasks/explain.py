"""Explains photos, texts or rows one by one: trace, dense and sparse map, scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch.nn import Module

from spadelens import defaults
from spadelens.attribution.attribution import Heatmap, attribute
from spadelens.extraction.ensemble import TraceEnsemble, extract_ensemble
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.presets import find_preset
from spadelens.extraction.trace import Trace
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample
from spadelens.kinds import Kind, Reduction
from spadelens.methods.registry import METHODS, Method
from spadelens.metrics.localization import Localization, localize
from spadelens.models import Loaded, find_class
from spadelens.progress import Progress
from spadelens.settings import configured_name
from spadelens.tasks.subjects import PhotoSubject, Subject, Unit, kind_of_model, show

_GRADIENTS = frozenset({"saliency", "smoothgrad", "guided_backprop"})


@dataclass(frozen=True)
class ExplainSettings:
    """How samples are explained; see `extract_trace` and `attribute`.

    Attributes:
        method: The attribution method.
        options: How traces are made, complete.
        target: The class, as the user put it; None for the predicted one.
        blur: As in `attribute`.
    """

    method: Method
    options: TraceOptions
    target: str | None = None
    blur: float = 0.0


@dataclass(frozen=True, eq=False)
class Explanation:
    """One photo, text or row explained.

    Attributes:
        subject: What is explained.
        target: The class that is explained.
        trace: The sparse model, or an ensemble of several.
        original_map: The heatmap on the original model.
        trace_map: The heatmap on the trace.
        target_probabilities: Of the explained class, by the original model and by the trace.
        scores: Of both heatmaps against the region, where it is known.
        seconds: Stage -> time taken.
        units: What the maps have a value for, of a text or a row; empty for photos.
    """

    subject: Subject
    target: int
    trace: Trace | TraceEnsemble
    original_map: Heatmap
    trace_map: Heatmap
    target_probabilities: tuple[float, float]
    scores: tuple[Localization, Localization] | None
    seconds: Mapping[str, float] = field(default_factory=dict)
    units: tuple[Unit, ...] = ()


def explain(loaded: Loaded, subject: Subject, settings: ExplainSettings, progress: Progress) -> Explanation:
    """Return the explanation of one photo, text or row.

    Raises:
        SpadeError: As `extract_trace` and `attribute`; UnknownNameError: the model has no class of the target's name.
    """
    assert isinstance(settings.options.augmentation, str)
    shown = show(loaded, subject, settings.options.augmentation)
    model, sample = shown.model, shown.sample
    target = None
    if settings.target is not None:
        num_classes = class_scores(model, check_sample(model, sample).unsqueeze(0)).shape[1]
        target = find_class(settings.target, loaded.class_names, num_classes)
    extract = extract_ensemble if find_preset(settings.options.preset or defaults.PRESET).members else extract_trace
    options = replace(settings.options, augmentation=shown.augmentation)
    trace = extract(model, sample, target=target, options=options, progress=progress)
    target = trace.report.target
    start = time.perf_counter()
    maps = []
    reduction = reduction_of(kind_of_model(loaded), settings.method)
    explained: tuple[Module | Trace | TraceEnsemble, ...] = (model, trace)
    for number, one in enumerate(explained):
        progress("attribute", number, 2)
        maps.append(attribute(one, sample, settings.method, target=target, reduction=reduction, blur=settings.blur))
    progress("attribute", 2, 2)
    return Explanation(
        subject=subject,
        target=target,
        trace=trace,
        original_map=maps[0],
        trace_map=maps[1],
        target_probabilities=(
            trace.report.original_prediction.probabilities[target],
            trace.report.trace_prediction.probabilities[target],
        ),
        scores=_scores(maps, subject),
        units=shown.units,
        seconds={**trace.report.seconds, "attribute": time.perf_counter() - start},
    )


def default_method(kind: Kind) -> str:
    """Return the default method."""
    return defaults.METHOD if kind == "photo" else defaults.UNIT_METHOD


def default_preset(kind: Kind) -> str:
    """Return the default preset for a searched schedule."""
    return defaults.EXPLAIN_PRESET if kind == "photo" else defaults.PRESET


def reduction_of(kind: Kind, method: Method) -> Reduction:
    """Return how the values of one token, or of one column, become one.

    What a token adds to the score, or a column, has a sign; a gradient alone has none that says so.
    """
    is_gradient = configured_name(method, METHODS).partition(":")[0] in _GRADIENTS
    return "sum_abs" if kind == "photo" or is_gradient else "sum"


def _scores(maps: list[Heatmap], subject: Subject) -> tuple[Localization, Localization] | None:
    if not isinstance(subject, PhotoSubject) or subject.region is None:
        return None
    return localize(maps[0].values, subject.region), localize(maps[1].values, subject.region)
