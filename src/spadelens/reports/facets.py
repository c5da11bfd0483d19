"""The report on the facets of a class: JSON, a page, a table, images and traces."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spadelens.facets.facets import FacetReport
from spadelens.files import whole_file
from spadelens.models import LoadedModel
from spadelens.pictures import as_picture, overlap_picture, photo_picture, png_bytes
from spadelens.plain_text import csv_cell
from spadelens.reports.html import page_picture, page_thumbnail, render_page
from spadelens.reports.summary import describe_options, describe_run, sparsity_of
from spadelens.tasks.facets import Album, FacetSettings, FacetsOfClass

FORMAT = "spadelens-facets-1"
_NUM_SHOWN, _NUM_LAYERS_SHOWN = 18, 8


def summarize_facets(
    loaded: LoadedModel, result: FacetsOfClass, settings: FacetSettings, command: str
) -> dict[str, Any]:
    """Return the report of a run."""
    album, found = result.album, result.found
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
            **describe_options(settings.options, trace_report),
        },
        "silhouettes": {str(number): value for number, value in found.silhouettes.items()},
        "shuffled_silhouettes": list(found.shuffled_silhouettes),
        "is_distinct": found.is_distinct,
        "verdict": found.verdict,
        "separation": dict(separation),
        "facets": [
            {
                "number": number,
                "size": len(facet.members),
                "photos": [album.files[member] for member in facet.members],
                "sparsity": sparsity_of(facet.trace),
                "agreement": result.agreements[number - 1],
                "connections": [asdict(connection) for connection in facet.connections],
                "files": {"image": f"facet-{number}.png", "trace": f"facet-{number}.safetensors"},
            }
            for number, facet in enumerate(found.facets, start=1)
        ],
        "seconds": dict(result.seconds),
    }


def write_facets(folder: Path, report: Mapping[str, Any], result: FacetsOfClass) -> None:
    """Write `report.html`, `facets.json`, `facets.csv` (which photo is in which facet), images and traces."""
    album, found = result.album, result.found
    pictures = [png_bytes(photo_picture(as_picture(one.images[0], one.opacity[0]))) for one in result.images]
    (folder / "original.png").write_bytes(pictures[0])
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
    """Return the report as one HTML page, given the image of the original model and that of each facet."""
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
    overlaps = overlap_picture(found.overlap, [member for facet in found.facets for member in facet.members])
    return render_page(
        "facets.html.j2",
        report,
        [],
        facets=facets,
        original=page_picture("image of the original model", pictures[0]),
        overlap=page_picture("overlaps", png_bytes(photo_picture(overlaps))),
        layers=list(report["separation"].items())[:_NUM_LAYERS_SHOWN],
    )
