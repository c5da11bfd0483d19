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
    from spadelens.extract.augment import NoiseViews, NoViews, PaperViews
    from spadelens.extract.augmentation import Augmentation
    from spadelens.extract.embedded import EmbeddedText
    from spadelens.extract.ensemble import TraceEnsemble, extract_ensemble
    from spadelens.extract.extraction import extract_trace, extract_traces
    from spadelens.extract.group import extract_group_trace
    from spadelens.extract.kinds import RowSample, TextSample, embed_text, row_sample, text_sample
    from spadelens.extract.presets import PRESETS, Preset
    from spadelens.extract.report import LayerReport, Outcome, PathPoint, Prediction, SearchReport, TraceReport
    from spadelens.extract.row_views import BootstrapViews
    from spadelens.extract.schedule import Auto, Guarded, Late, Schedule, Table, Uniform
    from spadelens.extract.solvers import ADMM, OBC, OLS, AutoSolver, Magnitude, Solver, SparseGPT, Wanda
    from spadelens.extract.token_views import TokenViews
    from spadelens.extract.trace import Trace
    from spadelens.interpret.ascent import Ascent
    from spadelens.interpret.attribution import Heatmap, attribute
    from spadelens.interpret.facets import Connection, Facet, FacetReport, find_facets
    from spadelens.interpret.objectives import (
        Channel,
        ClassScore,
        Difference,
        Direction,
        Neuron,
        Objective,
        parse_objective,
    )
    from spadelens.interpret.overlap import KeptWeights
    from spadelens.interpret.parameterizations import Direct, Fourier, Maco, Parameterization
    from spadelens.interpret.score_cam import score_cam
    from spadelens.interpret.soundness import Soundness
    from spadelens.interpret.transformations import Transformations
    from spadelens.interpret.visualization import Visualization, visualize, visualize_all
    from spadelens.measure.agreement import agreement
    from spadelens.measure.cases import Planted, TrojanCase
    from spadelens.measure.diagnosis import LayerDiagnosis, MethodDiagnosis, diagnose_layers, diagnose_methods
    from spadelens.measure.faithfulness import Faithfulness, faithfulness
    from spadelens.measure.gradients import gradient_similarity
    from spadelens.measure.localization import Localization, localize, pixel_auc, pointing_game
    from spadelens.measure.planted import plant, read_planted
    from spadelens.measure.sparse_fc import SparseFC, sparse_classifier
    from spadelens.measure.study import build_study
    from spadelens.measure.study_analysis import analyze_study
    from spadelens.measure.study_samples import StudyOptions
    from spadelens.measure.study_simulation import simulate_answers
    from spadelens.measure.tuning import CalibrationCase, Tuned, tune
    from spadelens.measure.visibility import FacetProbe, patch_correlation
    from spadelens.models import LoadedModel, LoadedTable, LoadedText, load_model, load_photo_model
    from spadelens.photos import Preprocessing, read_photo

__all__ = [
    "ADMM",
    "OBC",
    "OLS",
    "PRESETS",
    "Ascent",
    "Augmentation",
    "Auto",
    "AutoSolver",
    "BootstrapViews",
    "CalibrationCase",
    "Channel",
    "ClassScore",
    "Connection",
    "Difference",
    "Direct",
    "Direction",
    "EmbeddedText",
    "Facet",
    "FacetProbe",
    "FacetReport",
    "Faithfulness",
    "Fourier",
    "Guarded",
    "Heatmap",
    "KeptWeights",
    "Late",
    "LayerDiagnosis",
    "LayerReport",
    "LoadedModel",
    "LoadedTable",
    "LoadedText",
    "Localization",
    "Maco",
    "Magnitude",
    "MethodDiagnosis",
    "Neuron",
    "NoViews",
    "NoiseViews",
    "Objective",
    "Outcome",
    "PaperViews",
    "Parameterization",
    "PathPoint",
    "Planted",
    "Prediction",
    "Preprocessing",
    "Preset",
    "RowSample",
    "Schedule",
    "SearchReport",
    "Solver",
    "Soundness",
    "SpadeError",
    "SparseFC",
    "SparseGPT",
    "StudyOptions",
    "Table",
    "TextSample",
    "TokenViews",
    "Trace",
    "TraceEnsemble",
    "TraceReport",
    "Transformations",
    "TrojanCase",
    "Tuned",
    "Uniform",
    "Visualization",
    "Wanda",
    "agreement",
    "analyze_study",
    "attribute",
    "build_study",
    "diagnose_layers",
    "diagnose_methods",
    "embed_text",
    "extract_ensemble",
    "extract_group_trace",
    "extract_trace",
    "extract_traces",
    "faithfulness",
    "find_facets",
    "gradient_similarity",
    "load_model",
    "load_photo_model",
    "localize",
    "parse_objective",
    "patch_correlation",
    "pixel_auc",
    "plant",
    "pointing_game",
    "read_photo",
    "read_planted",
    "row_sample",
    "score_cam",
    "simulate_answers",
    "sparse_classifier",
    "text_sample",
    "tune",
    "visualize",
    "visualize_all",
]

_NAMES_BY_MODULE = {
    "errors": ("SpadeError",),
    "extract.augment": ("NoViews", "NoiseViews", "PaperViews"),
    "extract.augmentation": ("Augmentation",),
    "extract.embedded": ("EmbeddedText",),
    "extract.ensemble": ("TraceEnsemble", "extract_ensemble"),
    "extract.extraction": ("extract_trace", "extract_traces"),
    "extract.group": ("extract_group_trace",),
    "extract.kinds": ("RowSample", "TextSample", "embed_text", "row_sample", "text_sample"),
    "extract.presets": ("PRESETS", "Preset"),
    "extract.report": ("LayerReport", "Outcome", "PathPoint", "Prediction", "SearchReport", "TraceReport"),
    "extract.row_views": ("BootstrapViews",),
    "extract.schedule": ("Auto", "Guarded", "Late", "Schedule", "Table", "Uniform"),
    "extract.solvers": ("ADMM", "OBC", "OLS", "AutoSolver", "Magnitude", "Solver", "SparseGPT", "Wanda"),
    "extract.token_views": ("TokenViews",),
    "extract.trace": ("Trace",),
    "interpret.ascent": ("Ascent",),
    "interpret.attribution": ("Heatmap", "attribute"),
    "interpret.facets": ("Connection", "Facet", "FacetReport", "find_facets"),
    "interpret.objectives": (
        "Channel",
        "ClassScore",
        "Difference",
        "Direction",
        "Neuron",
        "Objective",
        "parse_objective",
    ),
    "interpret.parameterizations": ("Direct", "Fourier", "Maco", "Parameterization"),
    "interpret.overlap": ("KeptWeights",),
    "interpret.score_cam": ("score_cam",),
    "interpret.soundness": ("Soundness",),
    "interpret.transformations": ("Transformations",),
    "interpret.visualization": ("Visualization", "visualize", "visualize_all"),
    "measure.agreement": ("agreement",),
    "measure.cases": ("Planted", "TrojanCase"),
    "measure.diagnosis": ("LayerDiagnosis", "MethodDiagnosis", "diagnose_layers", "diagnose_methods"),
    "measure.faithfulness": ("Faithfulness", "faithfulness"),
    "measure.gradients": ("gradient_similarity",),
    "measure.localization": ("Localization", "localize", "pixel_auc", "pointing_game"),
    "measure.planted": ("plant", "read_planted"),
    "measure.sparse_fc": ("SparseFC", "sparse_classifier"),
    "measure.study": ("build_study",),
    "measure.study_analysis": ("analyze_study",),
    "measure.study_samples": ("StudyOptions",),
    "measure.study_simulation": ("simulate_answers",),
    "measure.tuning": ("CalibrationCase", "Tuned", "tune"),
    "measure.visibility": ("FacetProbe", "patch_correlation"),
    "models": ("LoadedModel", "LoadedTable", "LoadedText", "load_model", "load_photo_model"),
    "photos": ("Preprocessing", "read_photo"),
}
_MODULE_BY_NAME = {name: module for module, names in _NAMES_BY_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'spadelens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"spadelens.{_MODULE_BY_NAME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
