"""A photo whose class is visualized with the demo's network."""

from pathlib import Path
from typing import Any

from PIL import Image

from spadelens.demo.images import draw_image
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.presets import find_preset
from spadelens.models import LoadedModel
from spadelens.output.unfinished import Unfinished
from spadelens.tasks.subjects import PhotoSubject
from spadelens.tasks.traces import completed
from spadelens.tasks.visualize import Visualized, VisualizeSettings, make_task, visualize_photo
from spadelens.visualization import Ascent


def make_settings(
    target: str | None = None,
    parameterization: str = "maco",
    versus: str | None = None,
    unit: str | None = None,
    **changes: Any,
) -> VisualizeSettings:
    traces = completed(TraceOptions(schedule="late:0.5@0.7", num_views=2, seed=3), find_preset("balanced"), "balanced")
    ascent = Ascent(parameterization, num_steps=4, seed=3, **changes)
    return VisualizeSettings(traces, unit, ascent, target, versus)


def make_subject(label: int = 2, name: str = "a b") -> PhotoSubject:
    return PhotoSubject(name, f"folder/{name}.png", Image.fromarray(draw_image(label, 77).pixels))


def run(
    loaded: LoadedModel, settings: VisualizeSettings, folder: Path, label: int = 2, name: str = "a b"
) -> Visualized:
    task = make_task(loaded, make_subject(label, name), settings)
    return visualize_photo(loaded, task, settings, Unfinished(folder), lambda *_: None)
