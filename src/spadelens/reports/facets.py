"""The facets of a class, from a folder of photos to a folder of results."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from spadelens.cli.console import print_facets, stage_bar
from spadelens.errors import InputError
from spadelens.extraction.trace import Trace, runnable
from spadelens.facets.facets import LEAST_SAMPLES, FacetReport, find_facets
from spadelens.files import whole_file
from spadelens.forward import class_scores
from spadelens.models import LoadedModel, find_class
from spadelens.output import interrupts
from spadelens.output.folder import whole_folder
from spadelens.photos import photo_files, read_photo
from spadelens.plain_text import csv_cell
from spadelens.reports.html import page_picture, page_thumbnail, render_page
from spadelens.reports.image import photo_picture, png_bytes
from spadelens.reports.summary import describe_run, sparsity_of
from spadelens.reports.visualize_report import as_picture
from spadelens.tasks.traces import TraceSettings
from spadelens.text_files import displayable
from spadelens.visualization.ascent import Ascent
from spadelens.visualization.visualization import Visualization, visualize_all

FORMAT = "spadelens-facets-1"
_NUM_SHOWN, _NUM_LAYERS_SHOWN = 18, 8
_STREAM = 0xFACE


@dataclass(frozen=True)
class Settings:
    """How facets are found and shown.

    Attributes:
        traces: How the traces are made that are compared.
        unit: The class, by name or number.
        num_clusters: How many facets; None for what the overlaps suggest.
        most: At most so many photos, drawn at random of those that the model gives to the class.
        ascent: How images are found that show a facet.
    """

    traces: TraceSettings
    unit: str
    num_clusters: int | None
    most: int
    ascent: Ascent


@dataclass(frozen=True, eq=False)
class Album:
    """The photos of a folder that a model gives to a class.

    Attributes:
        target: The class.
        files: Their names, as the user would find them.
        crops: What the model sees of them.
        samples: As it expects them, `[N, C, H, W]`.
        num_found: How many photos are in the folder.
        num_predicted: How many of them the model gives to the class, those beyond the limit included.
    """

    target: int
    files: Sequence[str]
    crops: Sequence[Image.Image]
    samples: Tensor
    num_found: int
    num_predicted: int


def read_album(
    loaded: LoadedModel, folder: Path, settings: Settings, progress: Callable[[str, int, int], None]
) -> Album:
    """Return the photos in a folder, and in those below it, that the model gives to the class.

    Raises:
        InputError: There are fewer than 8 of them, or there is no such class.
        PhotoError: A photo cannot be read.
    """
    files = photo_files(folder, is_deep=True)
    if not files:
        raise InputError(f"There are no photos in {str(folder)!r}.")
    chosen: list[tuple[Path, Image.Image, Tensor]] = []
    target = -1
    for number, file in enumerate(files):
        progress("predict", number, len(files))
        crop = loaded.preprocessing.crop(read_photo(file))
        sample = loaded.preprocessing.to_tensor(crop)
        weight = next(loaded.model.parameters())
        scores = class_scores(loaded.model, sample.unsqueeze(0).to(weight))[0]
        if number == 0:
            target = find_class(settings.unit, loaded.class_names, len(scores))
        if int(scores.argmax()) == target:
            chosen.append((file, crop, sample))
    if len(chosen) < LEAST_SAMPLES:
        raise InputError(
            f"The model gives {len(chosen)} of {len(files)} photos in {str(folder)!r} to "
            f"{loaded.class_name(target)!r}: expected at least {LEAST_SAMPLES}."
        )
    rng = np.random.default_rng((settings.traces.seed, _STREAM))
    kept = sorted(rng.permutation(len(chosen))[: settings.most].tolist())
    return Album(
        target=target,
        files=[displayable(str(chosen[number][0].relative_to(folder))) for number in kept],
        crops=[chosen[number][1] for number in kept],
        samples=torch.stack([chosen[number][2] for number in kept]),
        num_found=len(files),
        num_predicted=len(chosen),
    )


def facets_to_folder(
    loaded: LoadedModel,
    make_album: Callable[[Callable[[str, int, int], None]], Album],
    settings: Settings,
    out: Path,
    command: str,
) -> dict[str, Any]:
    """Find the facets of a class, write the results to the folder `out`, and return the report.

    The folder gets `report.html`, `facets.json`, `facets.csv` (which photo is in which facet), `dense.png`, and for
    each facet `facet-1.png` and `facet-1.safetensors`, its trace; all of them, or none.

    Args:
        loaded: The model.
        make_album: Returns the photos, given what to call with progress.
        settings: How.
        out: The folder.
        command: The command that reproduces the run.

    Raises:
        SpadeError: As `read_album`, `find_facets` and `visualize_all`.
        OutputError: The folder cannot be written.
    """
    clock: dict[str, float] = {}
    with interrupts.raises(), whole_folder(out) as staging:
        with stage_bar() as progress:
            start = time.perf_counter()
            album = make_album(progress)
            clock["predict"] = time.perf_counter() - start
            start = time.perf_counter()
            found = find_facets(
                loaded.model,
                album.samples,
                target=album.target,
                num_clusters=settings.num_clusters,
                progress=progress,
                **settings.traces.arguments(loaded),
            )
            clock["facets"] = time.perf_counter() - start
            start = time.perf_counter()
            models: list[Trace | nn.Module] = [loaded.model, *(facet.trace for facet in found.facets)]
            unit = f"class:{album.target}"
            images = visualize_all(models, unit, loaded.preprocessing, settings.ascent, progress)
            clock["visualize"] = time.perf_counter() - start
        report = summarize(loaded, album, found, settings, command) | {"seconds": clock}
        _write(staging, report, album, found, images)
    print_facets(report, out)
    return report


def summarize(
    loaded: LoadedModel, album: Album, found: FacetReport, settings: Settings, command: str
) -> dict[str, Any]:
    """Return the report of a run, but for its seconds."""
    trace_report = found.facets[0].trace.report
    separation = sorted(found.separation.items(), key=lambda pair: pair[1], reverse=True)
    return {
        "format": FORMAT,
        **describe_run(command, loaded, trace_report),
        "class": {"class_index": album.target, "class_name": loaded.class_name(album.target)},
        "num_photos": album.num_found,
        "num_predicted": album.num_predicted,
        "num_compared": len(album.files),
        "settings": {
            "num_clusters": settings.num_clusters,
            "most": settings.most,
            "ascent": settings.ascent.described(),
            **settings.traces.described(trace_report),
        },
        "silhouettes": {str(number): value for number, value in found.silhouettes.items()},
        "separation": dict(separation),
        "facets": [
            {
                "number": number,
                "size": len(facet.members),
                "photos": [album.files[member] for member in facet.members],
                "sparsity": sparsity_of(facet.trace),
                "agreement": _agreement(album, facet.members, facet.trace),
                "connections": [asdict(connection) for connection in facet.connections],
                "files": {"image": f"facet-{number}.png", "trace": f"facet-{number}.safetensors"},
            }
            for number, facet in enumerate(found.facets, start=1)
        ],
    }


def _agreement(album: Album, members: Sequence[int], trace: Trace) -> float:
    """Return the share of a facet's photos that its trace gives to the class."""
    model = runnable(trace)
    weight = next(model.parameters())
    batches = album.samples[list(members)].to(weight).split(32)
    predicted = torch.cat([class_scores(model, batch).argmax(1) for batch in batches])
    return float((predicted == album.target).double().mean())


def _write(
    folder: Path, report: Mapping[str, Any], album: Album, found: FacetReport, images: Sequence[Visualization]
) -> None:
    pictures = [png_bytes(photo_picture(as_picture(one.images[0], one.opacity[0]))) for one in images]
    (folder / "dense.png").write_bytes(pictures[0])
    for facet, picture, described in zip(found.facets, pictures[1:], report["facets"], strict=True):
        (folder / described["files"]["image"]).write_bytes(picture)
        facet.trace.save(folder / described["files"]["trace"])
    with whole_file(folder / "facets.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["photo", "facet"])
        rows.writerows(zip(map(csv_cell, album.files), [int(label) + 1 for label in found.labels], strict=True))
    (folder / "facets.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render(report, album, found, pictures), encoding="utf-8")


def render(report: Mapping[str, Any], album: Album, found: FacetReport, pictures: Sequence[bytes]) -> str:
    """Return the report as one HTML page, given the image of the dense model and that of each facet."""
    facets = [
        {
            "report": described,
            "image": page_picture(f"image of facet {described['number']}", picture),
            "photos": [
                {"picture": page_thumbnail(png_bytes(album.crops[member])), "file": album.files[member]}
                for member in facet.members[:_NUM_SHOWN]
            ],
        }
        for described, facet, picture in zip(report["facets"], found.facets, pictures[1:], strict=True)
    ]
    return render_page(
        "facets.html.j2",
        report,
        [],
        facets=facets,
        dense=page_picture("image of the dense model", pictures[0]),
        overlap=page_picture("overlaps", png_bytes(_overlap_picture(found))),
        layers=list(report["separation"].items())[:_NUM_LAYERS_SHOWN],
    )


def _overlap_picture(found: FacetReport) -> Image.Image:
    """Return the overlaps of all pairs of photos as a picture, facet by facet; the darker the more."""
    order = [member for facet in found.facets for member in facet.members]
    overlap = found.overlap[order][:, order].clone()
    pairs = ~torch.eye(len(order), dtype=torch.bool)
    low, high = overlap[pairs].quantile(0.02), overlap[pairs].quantile(0.98)
    shades = 255 * (1 - ((overlap - low) / (high - low).clamp_min(1e-12)).clamp(0, 1))
    return photo_picture(Image.fromarray(shades.round().byte().numpy()))
