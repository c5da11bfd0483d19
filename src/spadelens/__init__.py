"""Find out why a neural network made one particular prediction.

    trace = spadelens.extract_trace(model, sample)
    heatmap = spadelens.attribute(trace, sample)

`extract_trace` prunes the model to the weights that still reproduce its prediction for one sample (SPADE);
`attribute` runs an interpretability method on what is left. Importing this package is cheap: torch is imported on
first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spadelens.errors import SpadeError
    from spadelens.extract.augment import Augmentation, NoiseViews, NoViews, PaperViews
    from spadelens.extract.extraction import extract_trace, extract_traces
    from spadelens.extract.presets import PRESETS, Preset
    from spadelens.extract.report import LayerReport, Outcome, PathPoint, Prediction, SearchReport, TraceReport
    from spadelens.extract.schedule import Auto, Late, Schedule, Table, Uniform
    from spadelens.extract.solvers import ADMM, OBC, OLS, AutoSolver, Magnitude, Solver, SparseGPT, Wanda
    from spadelens.extract.trace import Trace
    from spadelens.interpret.attribution import Heatmap, attribute
    from spadelens.measure.localization import Localization, localize, pixel_auc, pointing_game
    from spadelens.models import LoadedModel, load_model
    from spadelens.photos import Preprocessing, read_photo

__all__ = [
    "ADMM",
    "OBC",
    "OLS",
    "PRESETS",
    "Augmentation",
    "Auto",
    "AutoSolver",
    "Heatmap",
    "Late",
    "LayerReport",
    "LoadedModel",
    "Localization",
    "Magnitude",
    "NoViews",
    "NoiseViews",
    "Outcome",
    "PaperViews",
    "PathPoint",
    "Prediction",
    "Preprocessing",
    "Preset",
    "Schedule",
    "SearchReport",
    "Solver",
    "SpadeError",
    "SparseGPT",
    "Table",
    "Trace",
    "TraceReport",
    "Uniform",
    "Wanda",
    "attribute",
    "extract_trace",
    "extract_traces",
    "load_model",
    "localize",
    "pixel_auc",
    "pointing_game",
    "read_photo",
]

_NAMES_BY_MODULE = {
    "errors": ("SpadeError",),
    "extract.augment": ("Augmentation", "NoViews", "NoiseViews", "PaperViews"),
    "extract.extraction": ("extract_trace", "extract_traces"),
    "extract.presets": ("PRESETS", "Preset"),
    "extract.report": ("LayerReport", "Outcome", "PathPoint", "Prediction", "SearchReport", "TraceReport"),
    "extract.schedule": ("Auto", "Late", "Schedule", "Table", "Uniform"),
    "extract.solvers": ("ADMM", "OBC", "OLS", "AutoSolver", "Magnitude", "Solver", "SparseGPT", "Wanda"),
    "extract.trace": ("Trace",),
    "interpret.attribution": ("Heatmap", "attribute"),
    "measure.localization": ("Localization", "localize", "pixel_auc", "pointing_game"),
    "models": ("LoadedModel", "load_model"),
    "photos": ("Preprocessing", "read_photo"),
}
_MODULE_BY_NAME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'spadelens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"spadelens.{_MODULE_BY_NAME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
