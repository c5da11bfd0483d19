"""The facets of a class: groups of photos that the network recognizes alike, and an image for each group."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from spadelens.errors import InputError
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.trace import Trace, runnable
from spadelens.facets.facets import LEAST_SAMPLES, FacetReport, find_facets
from spadelens.forward import class_scores
from spadelens.models import LoadedModel, find_class
from spadelens.photos import photo_files, read_photo
from spadelens.progress import Progress
from spadelens.tasks.traces import for_photos
from spadelens.text_files import displayable
from spadelens.visualization.ascent import Ascent
from spadelens.visualization.visualization import Visualization, visualize

_STREAM = 0xFACE


@dataclass(frozen=True)
class FacetSettings:
    """How facets are found and shown.

    Attributes:
        options: How the traces that are compared are made.
        target: The class, by name or number.
        num_clusters: The number of facets; None to find it from the overlaps.
        most: The maximum number of photos, drawn at random from those that the model assigns to the class.
        ascent: How images are found that show a facet.
    """

    options: TraceOptions
    target: str
    num_clusters: int | None
    most: int
    ascent: Ascent


@dataclass(frozen=True, eq=False)
class Album:
    """The photos of a folder that a model assigns to a class.

    Attributes:
        target: The class.
        files: Their names, as the user would find them.
        crops: What the model sees of them.
        samples: As it expects them, `[N, C, H, W]`.
        num_found: How many photos are in the folder.
        num_predicted: How many of them the model assigns to the class, including those beyond the limit.
    """

    target: int
    files: Sequence[str]
    crops: Sequence[Image.Image]
    samples: Tensor
    num_found: int
    num_predicted: int


def read_album(loaded: LoadedModel, folder: Path, settings: FacetSettings, progress: Progress) -> Album:
    """Return the photos in a folder and its subfolders that the model assigns to the class.

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
            target = find_class(settings.target, loaded.class_names, len(scores))
        if int(scores.argmax()) == target:
            chosen.append((file, crop, sample))
    if len(chosen) < LEAST_SAMPLES:
        raise InputError(
            f"The model classifies {len(chosen)} of {len(files)} photos in {str(folder)!r} as "
            f"{loaded.class_name(target)!r}: expected at least {LEAST_SAMPLES}."
        )
    rng = np.random.default_rng((settings.options.seed, _STREAM))
    kept = sorted(rng.permutation(len(chosen))[: settings.most].tolist())
    return Album(
        target=target,
        files=[displayable(str(chosen[number][0].relative_to(folder))) for number in kept],
        crops=[chosen[number][1] for number in kept],
        samples=torch.stack([chosen[number][2] for number in kept]),
        num_found=len(files),
        num_predicted=len(chosen),
    )


@dataclass(frozen=True, eq=False)
class FacetsOfClass:
    """The facets of a class.

    Attributes:
        album: The photos that were compared.
        found: Which facet each of them belongs to, and the facets' traces.
        images: What the original model responds to, and the trace of each facet, in order.
        agreements: For each facet, the share of its photos that its trace classifies as the class.
        seconds: Stage -> time taken.
    """

    album: Album
    found: FacetReport
    images: Sequence[Visualization]
    agreements: Sequence[float]
    seconds: Mapping[str, float]


def find_facets_of_class(
    loaded: LoadedModel, make_album: Callable[[Progress], Album], settings: FacetSettings, progress: Progress
) -> FacetsOfClass:
    """Return the facets of a class, and images of them.

    Args:
        loaded: The model.
        make_album: Returns the photos, given what to call with progress.
        settings: How.
        progress: What to call with progress.

    Raises:
        SpadeError: As `read_album`, `find_facets` and `visualize`.
    """
    times = [time.perf_counter()]
    album = make_album(progress)
    times.append(time.perf_counter())
    found = find_facets(
        loaded.model,
        album.samples,
        target=album.target,
        num_clusters=settings.num_clusters,
        progress=progress,
        options=for_photos(settings.options, loaded),
    )
    times.append(time.perf_counter())
    models: list[Trace | nn.Module] = [loaded.model, *(facet.trace for facet in found.facets)]
    images = visualize(models, f"class:{album.target}", loaded.preprocessing, settings.ascent, progress)
    times.append(time.perf_counter())
    seconds = {
        stage: stop - start
        for stage, start, stop in zip(("predict", "facets", "visualize"), times, times[1:], strict=False)
    }
    agreements = [_agreement(album, facet.members, facet.trace) for facet in found.facets]
    return FacetsOfClass(album, found, images, agreements, seconds)


def _agreement(album: Album, members: Sequence[int], trace: Trace) -> float:
    """Return the share of a facet's photos that its trace assigns to the class."""
    model = runnable(trace)
    weight = next(model.parameters())
    batches = album.samples[list(members)].to(weight).split(32)
    predicted = torch.cat([class_scores(model, batch).argmax(1) for batch in batches])
    return float((predicted == album.target).double().mean())
