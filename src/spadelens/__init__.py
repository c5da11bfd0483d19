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
    from spadelens.attribution.attribution import Heatmap, attribute
    from spadelens.attribution.diagnosis import LayerDiagnosis, MethodDiagnosis, diagnose_layers, diagnose_methods
    from spadelens.attribution.soundness import Soundness
    from spadelens.errors import SpadeError
    from spadelens.evaluation.sparse_fc import SparseFC, sparse_classifier
    from spadelens.evaluation.tuning import CalibrationCase, Tuned, tune
    from spadelens.extraction.ensemble import TraceEnsemble, extract_ensemble
    from spadelens.extraction.extraction import extract_trace, extract_traces
    from spadelens.extraction.group import extract_group_trace
    from spadelens.extraction.presets import PRESETS, Preset
    from spadelens.extraction.report import LayerReport, Outcome, PathPoint, SearchReport, TraceReport
    from spadelens.extraction.trace import Trace
    from spadelens.facets.facets import Connection, Facet, FacetReport, find_facets
    from spadelens.facets.overlap import KeptWeights
    from spadelens.inputs.embedded import EmbeddedText
    from spadelens.inputs.samples import RowSample, TextSample, embed_text, row_sample, text_sample
    from spadelens.methods.score_cam import score_cam
    from spadelens.metrics.agreement import agreement
    from spadelens.metrics.faithfulness import Faithfulness, faithfulness
    from spadelens.metrics.gradients import gradient_similarity
    from spadelens.metrics.localization import Localization, localize, pixel_auc, pointing_game
    from spadelens.metrics.visibility import FacetProbe, patch_correlation
    from spadelens.models import LoadedModel, LoadedTable, LoadedText, load_model, load_photo_model
    from spadelens.photos import Preprocessing, read_photo
    from spadelens.prediction import Prediction
    from spadelens.schedules.schedule import Auto, Guarded, Late, Schedule, Table, Uniform
    from spadelens.solvers import ADMM, OBC, OLS, AutoSolver, Magnitude, Solver, SparseGPT, Wanda
    from spadelens.study.analysis import analyze_study
    from spadelens.study.samples import StudyOptions
    from spadelens.study.simulation import simulate_answers
    from spadelens.study.study import build_study
    from spadelens.trojan.cases import Planted, TrojanCase
    from spadelens.trojan.planted import plant, read_planted
    from spadelens.views.augmentation import Augmentation
    from spadelens.views.photo_views import NoiseViews, NoViews, PaperViews
    from spadelens.views.row_views import BootstrapViews
    from spadelens.views.token_views import TokenViews
    from spadelens.visualization.ascent import Ascent
    from spadelens.visualization.objectives import (
        Channel,
        ClassScore,
        Difference,
        Direction,
        Neuron,
        Objective,
        parse_objective,
    )
    from spadelens.visualization.parameterizations import Direct, Fourier, Maco, Parameterization
    from spadelens.visualization.transformations import Transformations
    from spadelens.visualization.visualization import Visualization, visualize, visualize_all

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
    "views.photo_views": ("NoViews", "NoiseViews", "PaperViews"),
    "views.augmentation": ("Augmentation",),
    "inputs.embedded": ("EmbeddedText",),
    "extraction.ensemble": ("TraceEnsemble", "extract_ensemble"),
    "extraction.extraction": ("extract_trace", "extract_traces"),
    "extraction.group": ("extract_group_trace",),
    "inputs.samples": ("RowSample", "TextSample", "embed_text", "row_sample", "text_sample"),
    "extraction.presets": ("PRESETS", "Preset"),
    "extraction.report": ("LayerReport", "Outcome", "PathPoint", "SearchReport", "TraceReport"),
    "prediction": ("Prediction",),
    "views.row_views": ("BootstrapViews",),
    "schedules.schedule": ("Auto", "Guarded", "Late", "Schedule", "Table", "Uniform"),
    "solvers": ("ADMM", "OBC", "OLS", "AutoSolver", "Magnitude", "Solver", "SparseGPT", "Wanda"),
    "views.token_views": ("TokenViews",),
    "extraction.trace": ("Trace",),
    "visualization.ascent": ("Ascent",),
    "attribution.attribution": ("Heatmap", "attribute"),
    "facets.facets": ("Connection", "Facet", "FacetReport", "find_facets"),
    "visualization.objectives": (
        "Channel",
        "ClassScore",
        "Difference",
        "Direction",
        "Neuron",
        "Objective",
        "parse_objective",
    ),
    "visualization.parameterizations": ("Direct", "Fourier", "Maco", "Parameterization"),
    "facets.overlap": ("KeptWeights",),
    "methods.score_cam": ("score_cam",),
    "attribution.soundness": ("Soundness",),
    "visualization.transformations": ("Transformations",),
    "visualization.visualization": ("Visualization", "visualize", "visualize_all"),
    "metrics.agreement": ("agreement",),
    "trojan.cases": ("Planted", "TrojanCase"),
    "attribution.diagnosis": ("LayerDiagnosis", "MethodDiagnosis", "diagnose_layers", "diagnose_methods"),
    "metrics.faithfulness": ("Faithfulness", "faithfulness"),
    "metrics.gradients": ("gradient_similarity",),
    "metrics.localization": ("Localization", "localize", "pixel_auc", "pointing_game"),
    "trojan.planted": ("plant", "read_planted"),
    "evaluation.sparse_fc": ("SparseFC", "sparse_classifier"),
    "study.study": ("build_study",),
    "study.analysis": ("analyze_study",),
    "study.samples": ("StudyOptions",),
    "study.simulation": ("simulate_answers",),
    "evaluation.tuning": ("CalibrationCase", "Tuned", "tune"),
    "metrics.visibility": ("FacetProbe", "patch_correlation"),
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
