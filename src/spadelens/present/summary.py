"""The data of a report: `report.json`, which `report.schema.json` describes."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spadelens.extract.ensemble import TraceEnsemble
from spadelens.extract.report import Prediction, TraceReport, package_versions
from spadelens.extract.trace import Trace
from spadelens.interpret.methods import METHODS
from spadelens.models import LoadedModel
from spadelens.present.explain import Explanation, Settings
from spadelens.settings import configured_name, settings_of

FORMAT = "spadelens-report-3"
NUM_TOP_CLASSES = 5


@dataclass(frozen=True)
class Run:
    """What all photos of a report share.

    Attributes:
        command: The shell command that reproduces the run.
        loaded: The model.
        settings: How photos were explained.
        trace_report: Of the trace of any of the photos, for what is a matter of the model alone.
        seconds: Stage -> time taken, over all photos.
    """

    command: str
    loaded: LoadedModel
    settings: Settings
    trace_report: TraceReport
    seconds: Mapping[str, float]


def summarize(run: Run, photos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the report of a run, given what `summarize_photo` returned for each photo."""
    settings = run.settings
    return {
        "format": FORMAT,
        **describe_run(run.command, run.loaded, run.trace_report),
        "settings": {
            "method": configured_name(settings.method, METHODS),
            "method_settings": settings_of(settings.method),
            "blur": settings.blur,
            "target": settings.target,
            **settings.described(run.trace_report),
        },
        "seconds": dict(run.seconds),
        "photos": [dict(photo) for photo in photos],
    }


def describe_run(command: str, loaded: LoadedModel, trace_report: TraceReport) -> dict[str, Any]:
    """Return what every report says of a run: the command, when and where it was, and the model."""
    preprocessing = loaded.preprocessing
    return {
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": package_versions(),
        "device": _device_name(loaded.model),
        "model": {
            "spec": loaded.spec,
            "num_weights": _num_weights(trace_report),
            "input_size": list(preprocessing.crop_px),
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "num_classes": trace_report.num_classes,
        },
    }


def summarize_photo(explanation: Explanation, loaded: LoadedModel) -> dict[str, Any]:
    """Return the part of the report about one photo."""
    subject, report = explanation.subject, explanation.trace.report
    data = report.to_dict()
    trace = explanation.trace
    members = trace.members if isinstance(trace, TraceEnsemble) else (trace,)
    maps = {"dense": explanation.dense_map, "sparse": explanation.sparse_map}
    scores = None
    if explanation.scores is not None:
        pairs = zip(("dense", "sparse"), explanation.scores, strict=True)
        scores = {"region": subject.region_name} | {key: settings_of(score) for key, score in pairs}
    return {
        "file": subject.file,
        "name": subject.name,
        "explained_class": {
            "class_index": explanation.target,
            "class_name": loaded.class_name(explanation.target),
        },
        "dense": describe_prediction(report.dense, explanation.target_probabilities[0], loaded),
        "sparse": describe_prediction(report.sparse, explanation.target_probabilities[1], loaded),
        "is_prediction_kept": report.is_prediction_kept,
        "sparsity": sparsity_of(members[0]),
        "members": [
            {
                "sparsity": sparsity_of(member),
                "explained_probability": member.report.sparse.probabilities[explanation.target],
                "is_prediction_kept": member.report.is_prediction_kept,
            }
            for member in members
        ],
        "dense_weight": trace.dense_weight if isinstance(trace, TraceEnsemble) else 0.0,
        "maps": {
            key: {"is_zero": heatmap.is_zero, "convergence_delta": heatmap.convergence_delta}
            for key, heatmap in maps.items()
        },
        "scores": scores,
        "search": data["search"],
        "layers": data["layers"],
        "num_views": report.settings["num_views"],
        "num_held_out_views": report.settings["num_held_out_views"],
        "seconds": dict(explanation.seconds),
        "files": {
            "dense": f"{subject.name}/dense.png",
            "spade": f"{subject.name}/spade.png",
            "trace": f"{subject.name}/trace.safetensors",
        },
    }


def sparsity_of(trace: Trace) -> float:
    """Return the fraction of all weights of convolutions and linear layers that a trace prunes."""
    return sum(int(pruned.sum()) for pruned in trace.pruned.values()) / _num_weights(trace.report)


def describe_prediction(prediction: Prediction, explained_probability: float, loaded: LoadedModel) -> dict[str, Any]:
    """Return what a model predicts, with the probability that it gives the explained class, for `report.json`."""

    def named(class_index: int, probability: float) -> dict[str, Any]:
        return {
            "class_index": class_index,
            "class_name": loaded.class_name(class_index),
            "probability": probability,
        }

    top = [named(index, probability) for index, probability in prediction.top(NUM_TOP_CLASSES)]
    return top[0] | {"explained_probability": explained_probability, "top": top}


def _device_name(model: torch.nn.Module) -> str:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _num_weights(report: TraceReport) -> int:
    return sum(math.prod(layer.shape) for layer in report.layers)
