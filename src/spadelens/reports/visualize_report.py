"""The report on a visualized unit: its data, pictures and HTML page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from spadelens.errors import InputError
from spadelens.extraction.report import TraceReport
from spadelens.models import LoadedModel
from spadelens.pictures import as_picture, photo_picture, png_bytes
from spadelens.reports.html import compare_classes, page_picture, page_thumbnail, render_page
from spadelens.reports.summary import describe_options, describe_prediction, sparsity_of
from spadelens.tasks.visualize import NUM_TRANSFORMED, Visualized, VisualizeSettings
from spadelens.visualization.objectives import Channel, ClassScore, Difference, Neuron, Objective
from spadelens.visualization.parameterizations import Maco

FORMAT = "spadelens-visualize-1"


@dataclass(frozen=True)
class Pictures:
    """The pictures of one photo, each the bytes of a PNG file, all of one size in pixels.

    Attributes:
        photo: The photo as the model sees it.
        plain: Model ('original', 'trace') -> its images.
        faded: The same with their opacity, over grey; empty where that is not how they are shown.
    """

    photo: bytes
    plain: Mapping[str, tuple[bytes, ...]]
    faded: Mapping[str, tuple[bytes, ...]]

    def shown(self, model: str) -> tuple[bytes, ...]:
        """Return the images of a model as they are shown at first."""
        return self.faded[model] if self.faded else self.plain[model]


def summarize_visualizations(
    described: Mapping[str, Any],
    settings: VisualizeSettings,
    trace_report: TraceReport,
    seconds: Mapping[str, float],
    photos: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the report of a run, as `visualize.schema.json` describes it.

    Args:
        described: What `describe_run` returned.
        settings: How the unit was visualized.
        trace_report: Of the trace of any of the photos.
        seconds: Stage -> time taken, over all photos.
        photos: What `summarize_photo` returned for each photo.
    """
    ascent = settings.ascent.described()
    transformations = ascent["transformations"]
    return {
        "format": FORMAT,
        **described,
        "settings": {
            "target": settings.target,
            "versus": settings.versus,
            "unit": settings.unit,
            "parameterization": ascent["parameterization"],
            "transformations": {**transformations, "scale": list(transformations["scale"])},
            "num_steps": ascent["num_steps"],
            "num_images": ascent["num_images"],
            **describe_options(settings.options, trace_report),
        },
        "seconds": dict(seconds),
        "photos": [dict(photo) for photo in photos],
    }


def summarize_photo(found: Visualized, loaded: LoadedModel) -> dict[str, Any]:
    """Return the part of the report about one photo."""
    task, report = found.task, found.trace.report
    name = task.subject.name
    objective = task.objective
    predictions = {
        model: describe_prediction(prediction, prediction.probabilities[task.target], loaded)
        for model, prediction in (("original", report.original_prediction), ("trace", report.trace_prediction))
    }
    return {
        "file": task.subject.file,
        "name": name,
        "unit": {
            "spec": objective.spec(),
            "words": describe_unit(objective, loaded),
            "is_class": isinstance(objective, ClassScore),
        },
        "explained_class": _describe_class(task.target, loaded),
        "versus_class": _describe_versus(objective, loaded),
        **predictions,
        "is_prediction_kept": report.is_prediction_kept,
        "status": report.status,
        "responses": {model: dict(answers) for model, answers in found.responses.items()},
        "sparsity": sparsity_of(found.trace),
        "num_layers_pruned": len(report.pruned_layers),
        "num_layers": len(report.layers),
        "num_views": report.settings["num_views"],
        "num_held_out_views": report.settings["num_held_out_views"],
        "seconds": dict(found.seconds),
        "files": {
            "original_image": f"{name}/original.png",
            "trace_image": f"{name}/trace.png",
            "trace": f"{name}/trace.safetensors",
        },
    }


def _describe_class(index: int, loaded: LoadedModel) -> dict[str, Any]:
    return {"class_index": index, "class_name": loaded.class_name(index)}


def _describe_versus(objective: Objective, loaded: LoadedModel) -> dict[str, Any] | None:
    """Return the class whose score is subtracted from that of another, if that is what was maximized."""
    match objective:
        case Difference(ClassScore(), ClassScore(versus)):
            return _describe_class(versus, loaded)
    return None


def describe_unit(objective: Objective, loaded: LoadedModel) -> str:
    """Return a unit in words."""
    match objective:
        case ClassScore(index):
            return loaded.class_name(index)
        case Channel(layer, index):
            return f"channel {index} of {layer}"
        case Neuron(layer, index, position):
            where = "in the center" if position is None else f"at {', '.join(map(str, position))}"
            return f"channel {index} of {layer} {where}"
        case Difference(first, second):
            return f"{describe_unit(first, loaded)} rather than {describe_unit(second, loaded)}"
    return objective.spec()


def draw(found: Visualized, settings: VisualizeSettings) -> Pictures:
    """Return the pictures of one photo; those of 'maco' with their opacity as well."""
    both = {"original": found.original, "trace": found.pruned}
    is_faded = isinstance(settings.ascent.chosen[0], Maco)
    return Pictures(
        photo=png_bytes(photo_picture(found.task.subject.crop)),
        plain={
            model: tuple(png_bytes(photo_picture(as_picture(image))) for image in each.images)
            for model, each in both.items()
        },
        faded={
            model: tuple(
                png_bytes(photo_picture(as_picture(image, opacity)))
                for image, opacity in zip(each.images, each.opacity, strict=True)
            )
            for model, each in both.items()
            if is_faded
        },
    )


def write_photo(folder: Path, found: Visualized, pictures: Pictures) -> None:
    """Write the files of one photo to a new folder."""
    folder.mkdir()
    for name, model in (("original", "original"), ("trace", "trace")):
        (folder / f"{name}.png").write_bytes(_side_by_side(pictures.shown(model)))
    found.trace.save(folder / "trace.safetensors")


def render(report: Mapping[str, Any], pictures: Mapping[str, Pictures]) -> str:
    """Return the report as one HTML page, given the pictures of each photo by name; as `render_report`.

    Raises:
        InputError: A photo has no pictures, or a picture is not a PNG file.
    """
    missing = [photo["name"] for photo in report["photos"] if photo["name"] not in pictures]
    if missing:
        raise InputError(
            f"Cannot render the report: expected pictures of every photo, but there are none for {missing}."
        )
    photos = [_photo_context(photo, pictures[photo["name"]]) for photo in report["photos"]]
    return render_page("visualize.html.j2", report, photos, num_transformed=NUM_TRANSFORMED)


def _photo_context(photo: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    def on_page(images: Mapping[str, tuple[bytes, ...]], model: str) -> list[Any]:
        return [page_picture(f"{model} image of {photo['name']!r}", png) for png in images.get(model, ())]

    return {
        "report": photo,
        "is_prediction_explained": photo["explained_class"]["class_index"] == photo["original"]["class_index"],
        "photo": page_picture(f"photo {photo['name']!r}", pictures.photo),
        "plain": {model: on_page(pictures.plain, model) for model in ("original", "trace")},
        "faded": {model: on_page(pictures.faded, model) for model in ("original", "trace")},
        "thumbnails": [
            page_thumbnail(png) for png in (pictures.photo, pictures.shown("original")[0], pictures.shown("trace")[0])
        ],
        "classes": compare_classes(photo),
        "means": {
            model: {seen: sum(values) / len(values) for seen, values in answers.items()}
            for model, answers in photo["responses"].items()
        },
    }


def _side_by_side(images: tuple[bytes, ...]) -> bytes:

    opened = [Image.open(io.BytesIO(png)) for png in images]
    strip = Image.new("RGB", (sum(picture.width for picture in opened), opened[0].height))
    for number, picture in enumerate(opened):
        strip.paste(picture, (number * picture.width, 0))
    return png_bytes(strip)
