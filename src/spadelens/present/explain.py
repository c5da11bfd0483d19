"""Explains photos one by one: trace, dense and sparse heatmap, scores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from PIL import Image
from torch import Tensor
from torch.nn import Module

from spadelens.extract.capture import class_scores
from spadelens.extract.ensemble import TraceEnsemble, extract_ensemble
from spadelens.extract.extraction import extract_trace
from spadelens.extract.presets import find_preset
from spadelens.extract.sample import check_sample
from spadelens.extract.trace import Trace
from spadelens.interpret.attribution import Heatmap, attribute
from spadelens.interpret.methods import Method
from spadelens.measure.localization import Localization, localize
from spadelens.models import LoadedModel, find_class
from spadelens.present.traces import TraceSettings

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(stage, done, total); the stages are those of `extract_trace`, and 'attribute'."""


@dataclass(frozen=True)
class _Explained:
    method: Method


@dataclass(frozen=True)
class Settings(TraceSettings, _Explained):  # fields begin with those of the last base
    """How photos are explained; see `extract_trace` and `attribute`."""

    blur: float = 0.0


@dataclass(frozen=True, eq=False)
class Subject:
    """One photo to be explained.

    Attributes:
        name: Short and unique among the photos of a run; the name of its folder.
        file: Where it comes from, as the user put it.
        crop: What the model sees of it, RGB.
        region: The pixels known to have decided, boolean `[H, W]`, where they are known.
        region_name: What they show.
    """

    name: str
    file: str
    crop: Image.Image
    region: Tensor | None = None
    region_name: str = ""


@dataclass(frozen=True, eq=False)
class Explanation:
    """One photo explained.

    Attributes:
        subject: The photo.
        target: The class that is explained.
        trace: The sparse model, or an ensemble of several.
        dense_map: The heatmap on the dense model.
        sparse_map: The heatmap on the trace.
        target_probabilities: Of the explained class, by the dense model and by the trace.
        scores: Of both heatmaps against the region, where it is known.
        seconds: Stage -> time taken.
    """

    subject: Subject
    target: int
    trace: Trace | TraceEnsemble
    dense_map: Heatmap
    sparse_map: Heatmap
    target_probabilities: tuple[float, float]
    scores: tuple[Localization, Localization] | None
    seconds: Mapping[str, float] = field(default_factory=dict)


def explain(loaded: LoadedModel, subject: Subject, settings: Settings, progress: Progress) -> Explanation:
    """Return the explanation of one photo.

    Raises:
        SpadeError: As `extract_trace` and `attribute`; UnknownNameError: the model has no class of the target's name.
    """
    sample = loaded.preprocessing.to_tensor(subject.crop)
    target = None
    if settings.target is not None:
        num_classes = class_scores(loaded.model, check_sample(loaded.model, sample).unsqueeze(0)).shape[1]
        target = find_class(settings.target, loaded.class_names, num_classes)
    extract = extract_ensemble if find_preset(settings.preset).members else extract_trace
    trace = extract(
        loaded.model,
        sample,
        target=target,
        progress=progress,
        **settings.arguments(loaded),
    )
    target = trace.report.target
    start = time.perf_counter()
    maps = []
    models: tuple[Module | Trace | TraceEnsemble, ...] = (loaded.model, trace)
    for number, model in enumerate(models):
        progress("attribute", number, 2)
        maps.append(attribute(model, sample, settings.method, target, blur=settings.blur))
    progress("attribute", 2, 2)
    return Explanation(
        subject=subject,
        target=target,
        trace=trace,
        dense_map=maps[0],
        sparse_map=maps[1],
        target_probabilities=(trace.report.dense.probabilities[target], trace.report.sparse.probabilities[target]),
        scores=None if subject.region is None else _scores(maps, subject.region),
        seconds={**trace.report.seconds, "attribute": time.perf_counter() - start},
    )


def make_subjects(photos: Sequence[Path], pictures: Sequence[Image.Image], loaded: LoadedModel) -> list[Subject]:
    """Return what the model sees of the `pictures` that were read from `photos`, each with a name of its own."""
    return [
        Subject(name, displayable(str(photo)), loaded.preprocessing.crop(picture))
        for name, photo, picture in zip(unique_names(tuple(photos)), photos, pictures, strict=True)
    ]


def command_words(command: str, photos: Sequence[Path]) -> list[str]:
    """Return how a command on photos begins; a name that begins with a dash is no option."""
    return [command, *(f"./{photo}" if str(photo).startswith("-") else displayable(str(photo)) for photo in photos)]


def unique_names(files: tuple[Path, ...]) -> tuple[str, ...]:
    """Return a short name for each file, its stem, numbered where several are the same (whatever the case).

    The names can be those of folders beside the report.
    """
    names: list[str] = []
    taken = {"report.html", "report.json"}
    for file in files:
        stem = displayable(file.stem).strip(".") or "photo"
        name, number = stem, 2
        while name.lower() in taken:
            name = f"{stem}-{number}"
            number += 1
        taken.add(name.lower())
        names.append(name)
    return tuple(names)


def displayable(file_name: str) -> str:
    """Return a file's name with replacement characters where it is not valid text."""
    return os.fsencode(file_name).decode("utf-8", "replace")


def _scores(maps: list[Heatmap], region: Tensor) -> tuple[Localization, Localization]:
    return localize(maps[0].values, region), localize(maps[1].values, region)
