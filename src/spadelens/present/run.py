"""A whole run: photos in, a folder with report, heatmaps and traces out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spadelens.extract.ensemble import TraceEnsemble
from spadelens.models import LoadedModel
from spadelens.present import interrupts
from spadelens.present.console import print_summary, progress_bar
from spadelens.present.explain import Explanation, Settings, Subject, explain
from spadelens.present.folder import whole_folder
from spadelens.present.html import PhotoPictures, render_report
from spadelens.present.image import heatmap_picture, overlay_picture, photo_picture, png_bytes
from spadelens.present.summary import Run, summarize, summarize_photo


def run_to_folder(
    loaded: LoadedModel, subjects: Sequence[Subject], settings: Settings, out: Path, command: str
) -> dict[str, Any]:
    """Explain `subjects`, write the results to the folder `out`, and return the report.

    The folder gets `report.html`, `report.json`, and for each subject `NAME/dense.png`, `NAME/spade.png` and
    `NAME/trace.safetensors`, of an ensemble the chosen member; all of them, or none.

    Raises:
        SpadeError: As `explain`.
        OutputError: The folder cannot be written.
    """
    photos: list[dict[str, Any]] = []
    pictures: dict[str, PhotoPictures] = {}
    start = time.perf_counter()
    with interrupts.raises(), whole_folder(out) as staging:
        with progress_bar(len(subjects)) as for_photo:
            for number, subject in enumerate(subjects):
                explanation = explain(loaded, subject, settings, for_photo(number, subject.name))
                trace_report = explanation.trace.report
                photos.append(summarize_photo(explanation, loaded))
                pictures[subject.name] = _draw(explanation)
                _write_photo(staging / subject.name, explanation, pictures[subject.name])
        run = Run(command, loaded, settings, trace_report, _stage_seconds(photos, time.perf_counter() - start))
        report = summarize(run, photos)
        (staging / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (staging / "report.html").write_text(render_report(report, pictures), encoding="utf-8")
    print_summary(report, out)
    return report


def _draw(explanation: Explanation) -> PhotoPictures:
    photo = explanation.subject.crop
    dense, sparse = explanation.dense_map.values, explanation.sparse_map.values
    return PhotoPictures(
        photo=png_bytes(photo_picture(photo)),
        dense_heatmap=png_bytes(heatmap_picture(dense)),
        sparse_heatmap=png_bytes(heatmap_picture(sparse)),
        dense_overlay=png_bytes(overlay_picture(dense, photo)),
        sparse_overlay=png_bytes(overlay_picture(sparse, photo)),
    )


def _write_photo(folder: Path, explanation: Explanation, pictures: PhotoPictures) -> None:
    folder.mkdir()
    (folder / "dense.png").write_bytes(pictures.dense_heatmap)
    (folder / "spade.png").write_bytes(pictures.sparse_heatmap)
    trace = explanation.trace
    chosen = trace.members[0] if isinstance(trace, TraceEnsemble) else trace  # the others are many times larger
    chosen.save(folder / "trace.safetensors")


def _stage_seconds(photos: Sequence[Mapping[str, Any]], elapsed: float) -> dict[str, float]:
    """Return the time of every stage over all photos; what no stage accounts for went into pictures and files."""
    totals: dict[str, float] = {}
    for photo in photos:
        for stage, seconds in photo["seconds"].items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    return totals | {"write": elapsed - sum(totals.values())}
