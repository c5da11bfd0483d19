"""Explains photos one by one: trace, dense and sparse heatmap, scores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from PIL import Image
from torch import Tensor
from torch.nn import Module

from spadelens.extract.accumulate import Precision
from spadelens.extract.augment import Augmentation, parse_augmentation
from spadelens.extract.capture import class_scores
from spadelens.extract.ensemble import TraceEnsemble, extract_ensemble
from spadelens.extract.extraction import extract_trace
from spadelens.extract.presets import find_preset
from spadelens.extract.sample import check_sample
from spadelens.extract.schedule import Schedule
from spadelens.extract.solvers import Solver
from spadelens.extract.trace import Trace
from spadelens.interpret.attribution import Heatmap, attribute
from spadelens.interpret.methods import Method
from spadelens.measure.localization import Localization, localize
from spadelens.models import LoadedModel, find_class

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(stage, done, total); the stages are those of `extract_trace`, and 'attribute'."""


@dataclass(frozen=True)
class Settings:
    """How photos are explained; see `extract_trace` and `attribute`."""

    method: Method
    preset: str
    solver: Solver
    schedule: Schedule
    augmentation: str
    num_views: int
    positions_per_column: int
    seed: int
    target: str | None = None
    layers: tuple[str, ...] = ()
    batch_size: int | None = None
    memory_budget_mib: int | None = None
    precision: Precision = "float32"
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
        preset=settings.preset,
        target=target,
        augmentation=_augmentation(settings.augmentation, loaded),
        solver=settings.solver,
        schedule=settings.schedule,
        layers=settings.layers or None,
        num_views=settings.num_views,
        positions_per_column=settings.positions_per_column,
        seed=settings.seed,
        batch_size=settings.batch_size,
        memory_budget_mib=settings.memory_budget_mib,
        precision=settings.precision,
        progress=progress,
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


def _augmentation(name: str, loaded: LoadedModel) -> Augmentation:
    return parse_augmentation(name, loaded.preprocessing.mean, loaded.preprocessing.std)


def _scores(maps: list[Heatmap], region: Tensor) -> tuple[Localization, Localization]:
    return localize(maps[0].values, region), localize(maps[1].values, region)
