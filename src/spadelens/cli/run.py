"""A complete run: samples in, a folder with report, maps and traces out."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spadelens.cli.console import print_summary, print_visualized, progress_bar
from spadelens.errors import SpadeError
from spadelens.extraction.ensemble import TraceEnsemble
from spadelens.models import Loaded, LoadedModel
from spadelens.output import interrupts
from spadelens.output.folder import whole_folder
from spadelens.output.unfinished import unfinished
from spadelens.pictures import contrast_picture, mask_picture
from spadelens.reports import visualize_report as visualized
from spadelens.reports.html import PhotoPictures, render_report
from spadelens.reports.photo_pictures import draw_photo
from spadelens.reports.summary import Run, describe_run, maps_table, summarize_run, summarize_sample
from spadelens.tasks import visualize as visualizing
from spadelens.tasks.explain import ExplainSettings, Explanation, explain
from spadelens.tasks.subjects import PhotoSubject, Subject


def run_to_folder(
    loaded: Loaded, subjects: Sequence[Subject], settings: ExplainSettings, out: Path, command: str
) -> dict[str, Any]:
    """Explain `subjects`, write the results to the folder `out` and return the report.

    The folder gets `report.html`, `report.json` and, for each subject, `NAME/trace.safetensors` (for an ensemble, the
    chosen member) and its maps: `NAME/map.png`, `NAME/original.png` and `NAME/trace.png` for a photo, with the region
    in white in `NAME/region.png`; `NAME/maps.csv` for a text or a row. Either all files are written or none. The report
    begins with the predictions that are known to be wrong.

    Raises:
        SpadeError: As `explain`.
        OutputError: The folder cannot be written.
    """
    samples: list[dict[str, Any]] = []
    pictures: dict[str, PhotoPictures] = {}
    start = time.perf_counter()
    with interrupts.raises(), whole_folder(out) as staging:
        with progress_bar(len(subjects)) as for_sample:
            for number, subject in enumerate(subjects):
                with _naming(subject.file if len(subjects) > 1 else None):
                    explanation = explain(loaded, subject, settings, for_sample(number, subject.name))
                trace_report = explanation.trace.report
                samples.append(summarize_sample(explanation, loaded))
                folder = staging / subject.name
                _write_trace(folder, explanation)
                if isinstance(subject, PhotoSubject):
                    assert isinstance(loaded, LoadedModel)
                    pictures[subject.name] = draw_photo(explanation, loaded)
                    _write_pictures(folder, pictures[subject.name])
                    mask_picture(explanation.finding.region).save(folder / "region.png")
                    if explanation.contrast is not None:
                        contrast_picture(explanation.contrast.values, subject.crop).save(folder / "contrast.png")
                else:
                    (folder / "maps.csv").write_text(maps_table(samples[-1]), encoding="utf-8")
        run = Run(command, loaded, settings, trace_report, _stage_seconds(samples, time.perf_counter() - start))
        report = summarize_run(run, samples)
        (staging / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (staging / "report.html").write_text(render_report(report, pictures), encoding="utf-8")
    print_summary(report, out)
    return report


def visualize_to_folder(
    loaded: LoadedModel,
    subjects: Sequence[PhotoSubject],
    settings: visualizing.VisualizeSettings,
    out: Path,
    command: str,
) -> dict[str, Any]:
    """Visualize a unit for each of `subjects`, write the results to the folder `out` and return the report.

    The folder gets `report.html`, `report.json` and, for each subject, `NAME/original.png`, `NAME/trace.png` and
    `NAME/trace.safetensors`. Either all files are written or none. Until then, a hidden folder in it holds what is
    needed to resume an interrupted run: traces, finished images and a checkpoint of the current image every 64 steps.

    Raises:
        SpadeError: As `make_task` and `visualize_photo`.
        OutputError: The folder cannot be written.
    """
    photos: list[dict[str, Any]] = []
    pictures: dict[str, visualized.Pictures] = {}
    start = time.perf_counter()
    with (
        interrupts.raises(is_resumable=True),
        unfinished(out, worth_keeping=visualizing.FOUND) as files,
        whole_folder(out) as staging,
    ):
        with progress_bar(len(subjects)) as for_photo:
            tasks = [visualizing.make_task(loaded, subject, settings) for subject in subjects]
            for number, task in enumerate(tasks):
                name = task.subject.name
                found = visualizing.visualize_photo(loaded, task, settings, files, for_photo(number, name))
                photos.append(visualized.summarize_photo(found, loaded))
                pictures[name] = visualized.draw(found, settings)
                visualized.write_photo(staging / name, found, pictures[name])
        described = describe_run(command, loaded, found.trace.report)
        seconds = _stage_seconds(photos, time.perf_counter() - start)
        report = visualized.summarize_visualizations(described, settings, found.trace.report, seconds, photos)
        (staging / "report.json").write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (staging / "report.html").write_text(visualized.render(report, pictures), encoding="utf-8")
    print_visualized(report, out)
    return report


@contextmanager
def _naming(file: str | None) -> Iterator[None]:
    """Say in errors which of several samples they are about."""
    try:
        yield
    except SpadeError as error:
        if file is not None:
            error.args = (f"Cannot explain {file!r}: {error}",)
        raise


def _write_trace(folder: Path, explanation: Explanation) -> None:
    folder.mkdir()
    trace = explanation.trace
    chosen = trace.members[0] if isinstance(trace, TraceEnsemble) else trace  # the others are many times larger
    chosen.save(folder / "trace.safetensors")


def _write_pictures(folder: Path, pictures: PhotoPictures) -> None:
    (folder / "original.png").write_bytes(pictures.original_heatmap)
    (folder / "trace.png").write_bytes(pictures.trace_heatmap)
    (folder / "map.png").write_bytes(pictures.believed_heatmap)


def _stage_seconds(samples: Sequence[Mapping[str, Any]], elapsed: float) -> dict[str, float]:
    """Return the total time of every stage over all samples; the rest was spent on pictures and files."""
    totals: dict[str, float] = {}
    for sample in samples:
        for stage, seconds in sample["seconds"].items():
            totals[stage] = totals.get(stage, 0.0) + seconds
    return totals | {"write": elapsed - sum(totals.values())}
