"""One sample of a study: the regions of its two classes, visualized on the original model and on a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from spadelens import defaults
from spadelens.errors import InputError, VisualizationError
from spadelens.extraction.extraction import extract_trace
from spadelens.extraction.presets import find_preset
from spadelens.extraction.trace import Trace
from spadelens.methods.score_cam import score_cams
from spadelens.models import LoadedModel
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.study.answers import ARMS
from spadelens.study.pictures import largest_part, marked, shown, to_picture, top_region, write_pictures
from spadelens.views.photo_views import parse_augmentation, view_seed
from spadelens.views.view_source import check_count
from spadelens.visualization.ascent import NUM_STEPS, Ascent
from spadelens.visualization.visualization import visualize

CLASSES = ("label", "predicted")
KEPT = "kept"
_LEFT_OUT = ("without a region for a class", "with regions that intersect", "that cannot be visualized")


@final
@dataclass(frozen=True)
class StudyOptions:
    """How a study is made.

    Attributes:
        num_samples: The maximum number of samples; each has four tasks.
        region_fraction: The fraction of a map's pixels that form its region, those with the highest values.
        layer: The layer for Score-CAM; None for the last feature map, see `score_cam`.
        preset: The preset for the traces, as in `extract_trace`.
        schedule: The schedule for the traces; None for that of the preset.
        num_views: The number of views for each trace; None for that of the preset.
        num_steps: Gradient-ascent steps for each visualization.
        seed: Determines the selection of samples, their traces and visualizations, and all orders.
        batch_size: The batch size for Score-CAM.
    """

    num_samples: int = 100
    region_fraction: float = 0.1
    layer: str | None = None
    preset: str = defaults.VISUALIZE_PRESET
    schedule: str | None = None
    num_views: int | None = None
    num_steps: int = NUM_STEPS
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        for name in ("num_samples", "num_steps", "batch_size"):
            check_count(getattr(self, name), name, at_least=1)
        if self.num_views is not None:
            check_count(self.num_views, "num_views", at_least=1)
        check_count(self.seed, "seed", at_least=0)
        top_region(torch.ones(1, 1), self.region_fraction)
        if self.schedule is not None:
            parse_schedule(self.schedule)
        if find_preset(self.preset).members:
            raise InputError(
                f"Cannot use the preset {self.preset!r} here: visualizations need single traces, not an ensemble."
            )


@dataclass(frozen=True, eq=False)
class Candidate:
    """A photo that is misclassified.

    Attributes:
        number: Its place in the order in which photos are looked at.
        name: As people would find it.
        classes: Its label, and the class that is predicted.
        crop: What the model sees of it, RGB.
    """

    number: int
    name: str
    classes: tuple[int, int]
    crop: Image.Image


@dataclass(frozen=True, eq=False)
class SampleMaker:
    """Makes the pictures of candidates.

    Attributes:
        loaded: The model.
        options: How.
        folder: Where pictures are written.
    """

    loaded: LoadedModel
    options: StudyOptions
    folder: Path

    def make(self, candidate: Candidate, progress: Callable[[int], None]) -> dict[str, Any]:
        """Return what became of a candidate, with the names of its pictures where it is kept.

        `progress` is called with the steps that have been taken, of twice `num_steps`.

        Raises:
            SpadeError: As `score_cam`, `extract_trace` and `visualize`, but for a class that has no visualization.
        """
        progress(0)
        sample = self.loaded.preprocessing.to_tensor(candidate.crop)
        options = self.options
        found = {"photo": candidate.number, "name": candidate.name, "classes": list(candidate.classes)}
        maps = score_cams(self.loaded.model, sample, candidate.classes, options.layer, options.batch_size)
        regions = [top_region(values, options.region_fraction) for values in maps]
        if not all(bool(region.any()) for region in regions):
            return found | {"outcome": _LEFT_OUT[0]}
        if bool((regions[0] & regions[1]).any()):
            return found | {"outcome": _LEFT_OUT[1]}
        pictures = {"photo": shown(candidate.crop)}
        traces = {}
        for number, which in enumerate(CLASSES):
            pictures[f"region {which}"] = marked(candidate.crop, largest_part(regions[number]))
            try:
                images, trace = self._visualize(
                    sample, candidate, number, _shifted(progress, number * options.num_steps)
                )
            except VisualizationError as error:
                return found | {"outcome": _LEFT_OUT[2], "reason": str(error)}
            pictures |= {f"{arm} {which}": to_picture(image) for arm, image in zip(ARMS, images, strict=True)}
            traces[which] = _described(trace)
        names = write_pictures(self.folder, pictures)
        return found | {"outcome": KEPT, "pictures": names, "traces": traces}

    def _visualize(
        self, sample: Tensor, candidate: Candidate, number: int, progress: Callable[[int], None]
    ) -> tuple[list[Tensor], Trace]:
        """Return the images of a class on the original model and on the trace, from the same start, and the trace."""
        options, preprocessing = self.options, self.loaded.preprocessing
        target = candidate.classes[number]
        augmentation = find_preset(options.preset).augmentation
        trace = extract_trace(
            self.loaded.model,
            sample,
            preset=options.preset,
            target=target,
            augmentation=parse_augmentation(augmentation, preprocessing.mean, preprocessing.std),
            schedule=options.schedule,
            num_views=options.num_views,
            seed=options.seed,
            progress=lambda _stage, _done, _total: progress(0),
        )
        ascent = Ascent(num_steps=options.num_steps, seed=view_seed(options.seed, candidate.number))
        found = visualize(
            [self.loaded.model, trace],
            f"class:{target}",
            preprocessing,
            ascent,
            lambda _stage, done, _total: progress(done),
        )
        return [one.images[0] for one in found], trace


def _shifted(progress: Callable[[int], None], start: int) -> Callable[[int], None]:
    return lambda done: progress(start + done)


def _described(trace: Trace) -> dict[str, Any]:
    layers = trace.report.pruned_layers
    return {
        "pruned_layers": len(layers),
        "is_prediction_kept": trace.report.is_prediction_kept,
        "original_probability": trace.report.original_prediction.probabilities[trace.report.target],
        "trace_probability": trace.report.trace_prediction.probabilities[trace.report.target],
    }
