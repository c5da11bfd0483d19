"""Explains photos, texts or rows one by one: a trace, maps, and what the prediction rests on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.nn import Module

from spadelens import defaults
from spadelens.attribution.attribution import Heatmap, attribute
from spadelens.errors import InputError
from spadelens.extraction.ensemble import TraceEnsemble, extract_ensemble
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.presets import find_preset
from spadelens.extraction.trace import Trace, runnable
from spadelens.finding.candidates import Candidates, candidates_of
from spadelens.finding.coverings import coverings_for
from spadelens.finding.finding import Finding, find, smoothed
from spadelens.finding.interventions import Asked
from spadelens.finding.regions import words_of
from spadelens.forward import class_scores, scale_for
from spadelens.inputs.checks import check_sample
from spadelens.kinds import Kind, Reduction
from spadelens.methods.registry import METHODS, Method
from spadelens.metrics.localization import Localization, localize
from spadelens.models import Loaded
from spadelens.progress import Progress
from spadelens.schedules.schedule import SearchedSchedule
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.settings import configured_name, parse_configured
from spadelens.tasks.subjects import PhotoSubject, Shown, Subject, Unit, kind_of_model, show, suited_to
from spadelens.tasks.targets import check_class_names, find_classes
from spadelens.tasks.traces import completed

CONTRAST_METHOD = "integrated_gradients"  # gets the signs right on the original model; docs/findings.md
_GRADIENTS = frozenset({"saliency", "smoothgrad", "guided_backprop"})


@dataclass(frozen=True)
class ExplainSettings:
    """How samples are explained; see `extract_trace` and `attribute`.

    Attributes:
        method: The attribution method.
        options: How traces are made, complete.
        target: The class, as the user put it; None for the predicted one.
        blur: As in `attribute`.
        versus: The class that it is compared with, as the user put it; None for all others.
        candidates: The methods whose maps of the original model are averaged with those of `method`.
    """

    method: Method
    options: TraceOptions
    target: str | None = None
    blur: float = 0.0
    versus: str | None = None
    candidates: tuple[str, ...] = defaults.CANDIDATES


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
        finding: What the prediction rests on.
        candidates: The maps that it was looked for with.
        contrast: For a photo and two classes that are compared, what speaks for the one (above zero) and for the other
            (below), smoothed; None otherwise.
    """

    subject: Subject
    target: int
    trace: Trace | TraceEnsemble
    original_map: Heatmap
    trace_map: Heatmap
    target_probabilities: tuple[float, float]
    scores: tuple[Localization, Localization] | None
    finding: Finding
    candidates: Candidates
    contrast: Heatmap | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    units: tuple[Unit, ...] = ()


def explain_settings(
    loaded: Loaded | None = None,
    *,
    method: str | None = None,
    blur: float = 0.0,
    target: str | None = None,
    versus: str | None = None,
    candidates: Sequence[str] = (),
    **options: Any,
) -> ExplainSettings:
    """Return complete settings for the model's kind of input; for photos without a model.

    Args:
        loaded: The model.
        method: As in `attribute`; by default what suits the kind of input.
        blur: As in `attribute`.
        target: The class to explain, by name or number.
        versus: The class to compare it with, likewise.
        candidates: See `ExplainSettings`; 'none' alone for no others.
        options: Of `TraceOptions`.

    Raises:
        SpadeError: A name does not exist, or a value is out of range.
    """
    kind = "photo" if loaded is None else kind_of_model(loaded)
    if blur and kind != "photo":
        raise InputError("Cannot blur the map of a text or a table row: --blur is for photos only.")
    check_class_names(target, versus)
    if isinstance(candidates, str):
        raise InputError(f"Cannot use {candidates!r} as candidates: expected a list of names.")
    if "none" in candidates and set(candidates) != {"none"}:
        raise InputError("Cannot leave out other maps and add some: give the candidate 'none' alone, or leave it out.")
    others = () if "none" in candidates else tuple(candidates) or defaults.CANDIDATES
    for other in others:
        parse_configured("method", other, METHODS)
    given = TraceOptions.of(**options)
    if given.outputs is None and loaded is not None:
        given = replace(given, outputs=loaded.outputs)
    preset = given.preset
    if preset is None:
        is_searched = given.schedule is None or isinstance(parse_schedule(given.schedule), SearchedSchedule)
        preset = default_preset(kind) if is_searched else defaults.PRESET
    chosen = find_preset(preset) if loaded is None else suited_to(loaded, find_preset(preset))
    parsed = parse_configured("method", default_method(kind) if method is None else method, METHODS)
    return ExplainSettings(parsed, completed(given, chosen, preset), target, blur, versus, others)


def explain(loaded: Loaded, subject: Subject, settings: ExplainSettings, progress: Progress) -> Explanation:
    """Return the explanation of one photo, text or row.

    Raises:
        SpadeError: As `extract_trace` and `attribute`; UnknownNameError: the model has no class of the target's name.
    """
    assert isinstance(settings.options.augmentation, str)
    shown = show(loaded, subject, settings.options.augmentation)
    model, sample = shown.model, shown.sample
    target, versus = _asked_classes(loaded, shown, settings, subject.true_class)
    extract = extract_ensemble if find_preset(settings.options.preset or defaults.PRESET).members else extract_trace
    options = replace(settings.options, augmentation=shown.augmentation)
    trace = extract(model, sample, target=target, options=options, progress=progress)
    target = trace.report.target
    start = time.perf_counter()
    kind = kind_of_model(loaded)
    maps = []
    reduction = reduction_of(kind, settings.method)
    explained: tuple[Module | Trace | TraceEnsemble, ...] = (model, trace)
    for number, one in enumerate(explained):
        progress("attribute", number, 2)
        maps.append(
            attribute(
                one,
                sample,
                settings.method,
                target=target,
                versus=versus,
                reduction=reduction,
                blur=settings.blur,
            )
        )
    progress("attribute", 2, 2)
    mapped = time.perf_counter()
    others = settings.candidates if kind == "photo" else ()
    candidates = candidates_of(model, sample, maps[0], maps[1], others=others, reduction=reduction, progress=progress)
    finding = _find(shown, kind, candidates, target, versus, settings, progress)
    contrast = None
    if kind == "photo" and versus is not None:
        contrast = attribute(model, sample, CONTRAST_METHOD, target=target, versus=versus, reduction="sum", check=False)
        contrast = replace(contrast, values=smoothed(contrast.values))
    seconds = {"attribute": mapped - start, "find": time.perf_counter() - mapped}
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
        finding=finding,
        candidates=candidates,
        contrast=contrast,
        units=shown.units,
        seconds={**trace.report.seconds, **seconds},
    )


def _asked_classes(
    loaded: Loaded, shown: Shown, settings: ExplainSettings, true_class: int | None
) -> tuple[int | None, int | None]:
    """Return the class to explain and the class to compare it with, where the user has named them.

    A prediction that is known to be wrong is compared with the right class.

    Raises:
        UnknownNameError: There is no such class; InputError: they are the same.
    """
    named = (settings.target, settings.versus)
    if named == (None, None) and true_class is None:
        return None, None
    scores = class_scores(shown.model, check_sample(shown.model, shown.sample).unsqueeze(0))[0]
    target, versus = find_classes(loaded, *named, scores)
    if named == (None, None) and true_class != int(scores.argmax()):
        versus = true_class
    return target, versus


def _find(
    shown: Shown,
    kind: Kind,
    candidates: Candidates,
    target: int,
    versus: int | None,
    settings: ExplainSettings,
    progress: Progress,
) -> Finding:
    """Return what the prediction rests on, according to the original model."""
    model = runnable(shown.model)
    sample = check_sample(model, shown.sample)
    scores = class_scores(model, sample.unsqueeze(0))[0]
    asked = Asked(target, scale_for(model, sample, scores, settings.options.outputs), versus)
    is_special = tuple(unit.is_special for unit in shown.units)
    groups = None
    if kind == "text":
        groups = words_of([unit.name for unit in shown.units], is_special)
    elif kind == "row":
        groups = list(range(len(shown.units)))

    def rival_map(runner_up: int) -> Tensor:
        reduction = reduction_of(kind, settings.method)
        return attribute(
            shown.model, shown.sample, settings.method, target=runner_up, reduction=reduction, check=False
        ).values

    return find(
        model,
        sample,
        candidates.values,
        asked,
        coverings_for(kind, background=shown.background, is_special=is_special),
        groups=groups,
        rival=rival_map,
        seed=settings.options.seed,
        progress=progress,
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
