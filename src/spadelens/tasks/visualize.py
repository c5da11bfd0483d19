"""Visualizes a unit for photos one by one: what it responds to in the original model and in the trace."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.storage import fingerprint
from spadelens.extraction.trace import Trace
from spadelens.files import whole_file
from spadelens.forward import class_scores
from spadelens.inputs.checks import check_sample
from spadelens.models import LoadedModel
from spadelens.output.unfinished import Unfinished
from spadelens.progress import Progress
from spadelens.tasks.subjects import PhotoSubject
from spadelens.tasks.targets import find_classes
from spadelens.tasks.traces import for_photos
from spadelens.visualization.ascent import Ascent
from spadelens.visualization.objectives import ClassScore, Difference, Objective, parse_objective
from spadelens.visualization.visualization import Visualization, respond, visualize

FOUND = "found.pt"
NUM_TRANSFORMED = 32  # copies of an image that its response is the mean of
_SEED = 0xA15
_TRACE, _CLIMB = "trace.safetensors", "climb.pt"


@dataclass(frozen=True)
class VisualizeSettings:
    """How a unit is visualized.

    Attributes:
        options: How traces are made.
        unit: The unit of a layer, as the user put it; None for the target.
        ascent: How images are found.
        target: The class, as the user put it; None for the one that is predicted for each photo.
        versus: The class whose score is subtracted from that of the target, as the user put it; None for none.
    """

    options: TraceOptions
    unit: str | None
    ascent: Ascent
    target: str | None = None
    versus: str | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """A photo and the unit that is visualized for it.

    Attributes:
        subject: The photo.
        sample: The photo as the model expects it.
        objective: The unit.
        target: The class that the trace is made for: named by the user, or predicted for the photo.
    """

    subject: PhotoSubject
    sample: Tensor
    objective: Objective
    target: int


@dataclass(frozen=True, eq=False)
class Visualized:
    """What a unit responds to, for one photo.

    Attributes:
        task: The photo and the unit.
        trace: Of the photo.
        original: Images that the unit of the original model responds to, the same for all photos.
        pruned: Images that the unit of the trace responds to.
        responses: Model ('original', 'trace') -> input ('photo', 'original', 'trace') -> what the unit answers to each,
            to images as they are seen in the ascent: the mean over 32 random transformations, the same for all.
        seconds: Stage -> time taken.
    """

    task: Task
    trace: Trace
    original: Visualization
    pruned: Visualization
    responses: Mapping[str, Mapping[str, list[float]]]
    seconds: Mapping[str, float]


def make_task(loaded: LoadedModel, subject: PhotoSubject, settings: VisualizeSettings) -> Task:
    """Return the task for a photo, with the class or unit looked up and tried out on the photo.

    Raises:
        InputError: There is no such class or unit, or two classes that are compared are the same.
        ModelOutputError: The model fails on the photo.
        VisualizationError: The unit's value for the photo is not finite.
    """
    model = loaded.model
    sample = check_sample(model, loaded.preprocessing.to_tensor(subject.crop))
    scores = class_scores(model, sample.unsqueeze(0))[0]
    named, versus = find_classes(loaded, settings.target, settings.versus, scores)
    target = int(scores.argmax()) if named is None else named
    objective: Objective = ClassScore(target)
    if versus is not None:
        objective = Difference(objective, ClassScore(versus))
    elif settings.unit is not None:
        objective = _find_unit(loaded, settings.unit, len(scores))
    respond(model, objective, sample.unsqueeze(0))
    return Task(subject, sample, objective, target)


def _find_unit(loaded: LoadedModel, unit: str, num_classes: int) -> Objective:
    """Return a unit of a layer, or a difference that has one in it."""
    if unit.strip() in dict(loaded.model.named_modules(remove_duplicate=False)):
        raise InputError(f"The unit {unit!r} is a whole layer: add one of its channels, such as {unit.strip()}:0.")
    names_layer = ":" in unit or " - " in unit
    objective = parse_objective(unit, loaded.class_names, num_classes) if names_layer else None
    if objective is None or not objective.layers:
        raise InputError(
            f"Cannot read {unit!r} as a unit of a layer: expected LAYER:CHANNEL. For a class use --target, and for the "
            "difference of two --target and --versus."
        )
    return objective


def visualize_photo(
    loaded: LoadedModel, task: Task, settings: VisualizeSettings, files: Unfinished, progress: Progress
) -> Visualized:
    """Return what the unit of a task responds to, and keep in `files` what it took long to find.

    Raises:
        SpadeError: As `extract_trace` and `visualize`.
    """
    model, preprocessing = loaded.model, loaded.preprocessing
    pixels = hashlib.sha256(task.sample.cpu().double().numpy().tobytes()).hexdigest()
    made_from = (version("spadelens"), fingerprint(model), repr(preprocessing))
    of_trace = (*made_from, pixels, repr(settings.options), str(task.target))
    ascent = (task.objective.spec(), repr(settings.ascent))
    trace = _stored_trace(loaded, task, settings, files.path(_TRACE, *of_trace), progress)
    start = time.perf_counter()
    places = [files.path(FOUND, *of_model, *ascent) for of_model in (made_from, of_trace)]
    found = [_read(place, task, settings) for place in places]
    missing = [number for number, one in enumerate(found) if one is None]
    if missing:
        models = [(model, trace)[number] for number in missing]
        climb = files.path(_CLIMB, str(missing), *of_trace, *ascent)
        new = visualize(models, task.objective, preprocessing, settings.ascent, progress, climb)
        for number, one in zip(missing, new, strict=True):
            _write(places[number], one)
            found[number] = one
    original, pruned = (one for one in found if one is not None)
    return Visualized(
        task=task,
        trace=trace,
        original=original,
        pruned=pruned,
        responses={
            name: {
                "photo": respond(each, task.objective, task.sample.unsqueeze(0)).tolist(),
                "original": _respond_as_seen(each, task, original, loaded, settings),
                "trace": _respond_as_seen(each, task, pruned, loaded, settings),
            }
            for name, each in (("original", model), ("trace", trace))
        },
        seconds={**trace.report.seconds, "visualize": time.perf_counter() - start},
    )


def _stored_trace(
    loaded: LoadedModel, task: Task, settings: VisualizeSettings, place: Path, progress: Progress
) -> Trace:
    if place.exists():
        return Trace.load(place, loaded.model)
    options = for_photos(settings.options, loaded)
    trace = extract_trace(loaded.model, task.sample, target=task.target, options=options, progress=progress)
    trace.save(place)
    return trace


def _respond_as_seen(
    model: Trace | nn.Module, task: Task, found: Visualization, loaded: LoadedModel, settings: VisualizeSettings
) -> list[float]:
    transformations = replace(settings.ascent.chosen[1], num_copies=NUM_TRANSFORMED)
    generator = torch.Generator().manual_seed(_SEED)
    means = []
    for image in found.images:
        seen = transformations.copies(image[None, None], generator)[0]
        means.append(float(respond(model, task.objective, seen, loaded.preprocessing).double().mean()))
    return means


def _write(place: Path, found: Visualization) -> None:
    with whole_file(place) as temporary:
        torch.save({"images": found.images, "opacity": found.opacity, "curve": found.curve}, temporary)


def _read(place: Path, task: Task, settings: VisualizeSettings) -> Visualization | None:
    if not place.exists():
        return None
    try:
        found = torch.load(place, weights_only=True)
        return Visualization(
            images=found["images"],
            opacity=found["opacity"],
            objective=task.objective.spec(),
            curve=found["curve"],
            settings=settings.ascent.described(),
        )
    except Exception as error:  # whatever torch raises on a damaged file
        message = f"Cannot resume from {str(place)!r}: {type(error).__name__}. Delete it to start over."
        raise InputError(message) from error
