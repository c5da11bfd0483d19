"""The data of a report: `report.json`, which `report.schema.json` describes."""

from __future__ import annotations

import csv
import datetime
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spadelens.attribution.attribution import Heatmap
from spadelens.extraction.ensemble import TraceEnsemble
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.report import TraceReport, package_versions
from spadelens.extraction.trace import Trace
from spadelens.kinds import reduce_to_units
from spadelens.methods.registry import METHODS
from spadelens.models import Loaded, LoadedTable, LoadedText
from spadelens.plain_text import csv_cell
from spadelens.prediction import Prediction
from spadelens.reports.finding import describe_finding
from spadelens.settings import configured_name, settings_of
from spadelens.tasks.explain import ExplainSettings, Explanation, reduction_of
from spadelens.tasks.labels import mistakes_first
from spadelens.tasks.subjects import PhotoSubject, kind_of_model

FORMAT = "spadelens-report-5"
NUM_TOP_CLASSES = 5


@dataclass(frozen=True)
class Run:
    """The data that all samples of a report share.

    Attributes:
        command: The shell command that reproduces the run.
        loaded: The model.
        settings: How samples were explained.
        trace_report: The report of any sample's trace, for what depends on the model only.
        seconds: Stage -> time in seconds, over all samples.
    """

    command: str
    loaded: Loaded
    settings: ExplainSettings
    trace_report: TraceReport
    seconds: Mapping[str, float]


def summarize_run(run: Run, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the report of a run, given what `summarize_sample` returned for each sample.

    Predictions that are known to be wrong come first.
    """
    settings = run.settings
    kind = kind_of_model(run.loaded)
    return {
        "format": FORMAT,
        "kind": kind,
        **describe_run(run.command, run.loaded, run.trace_report),
        "settings": {
            "method": configured_name(settings.method, METHODS),
            "method_settings": settings_of(settings.method),
            "reduction": reduction_of(kind, settings.method),
            "blur": settings.blur,
            "target": settings.target,
            "versus": settings.versus,
            "candidates": list(settings.candidates),
            **describe_options(settings.options, run.trace_report),
        },
        "seconds": dict(run.seconds),
        "samples": [dict(sample) for sample in _in_order(samples)],
    }


def _in_order(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    predicted = [sample["original"]["class_index"] for sample in samples]
    true = [None if sample["true_class"] is None else sample["true_class"]["class_index"] for sample in samples]
    return mistakes_first(samples, predicted, true)


def describe_run(command: str, loaded: Loaded, trace_report: TraceReport) -> dict[str, Any]:
    """Return the data about a run that every report has: command, time, device, versions and model."""
    return {
        "command": command,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": package_versions(),
        "device": _device_name(loaded.model),
        "model": {
            "spec": loaded.spec,
            "num_weights": _num_weights(trace_report),
            **_describe_input(loaded),
            "num_classes": trace_report.num_classes,
            "outputs": trace_report.original_prediction.outputs,
        },
    }


def describe_options(options: TraceOptions, trace_report: TraceReport) -> dict[str, Any]:
    """Return how traces were made, given the report of any of them, which knows how views were normalized."""
    return options.described() | {"augmentation": trace_report.settings["augmentation"]}


def _describe_input(loaded: Loaded) -> dict[str, list[float] | None]:
    """Return the photo size in pixels, and the mean and standard deviation used to normalize channels or columns."""
    if isinstance(loaded, LoadedText):
        return {"input_size": None, "mean": None, "std": None}
    if isinstance(loaded, LoadedTable):
        return {"input_size": None, "mean": loaded.mean.tolist(), "std": loaded.std.tolist()}
    preprocessing = loaded.preprocessing
    return {
        "input_size": list(preprocessing.crop_px),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def summarize_sample(explanation: Explanation, loaded: Loaded) -> dict[str, Any]:
    """Return the part of the report about one sample."""
    subject, report = explanation.subject, explanation.trace.report
    data = report.to_dict()
    trace = explanation.trace
    members = trace.members if isinstance(trace, TraceEnsemble) else (trace,)
    maps = {"original": explanation.original_map, "trace": explanation.trace_map}
    scores = None
    if explanation.scores is not None and isinstance(subject, PhotoSubject):
        pairs = zip(("original", "trace"), explanation.scores, strict=True)
        scores = {"region": subject.region_name} | {key: settings_of(score) for key, score in pairs}
    return {
        "file": subject.file,
        "name": subject.name,
        "explained_class": {
            "class_index": explanation.target,
            "class_name": loaded.class_name(explanation.target),
        },
        "true_class": None
        if subject.true_class is None
        else {"class_index": subject.true_class, "class_name": loaded.class_name(subject.true_class)},
        "finding": describe_finding(explanation, loaded),
        "original": describe_prediction(report.original_prediction, explanation.target_probabilities[0], loaded),
        "trace": describe_prediction(report.trace_prediction, explanation.target_probabilities[1], loaded),
        "is_prediction_kept": report.is_prediction_kept,
        "status": report.status,
        "sparsity": sparsity_of(members[0]),
        "members": [
            {
                "sparsity": sparsity_of(member),
                "explained_probability": member.report.trace_prediction.probabilities[explanation.target],
                "is_prediction_kept": member.report.is_prediction_kept,
            }
            for member in members
        ],
        "original_weight": trace.original_weight if isinstance(trace, TraceEnsemble) else 0.0,
        "maps": {
            key: {
                "is_zero": heatmap.is_zero,
                "convergence_delta": heatmap.convergence_delta,
                "soundness": _describe_soundness(heatmap),
            }
            for key, heatmap in maps.items()
        },
        "map_values": describe_maps(explanation),
        "scores": scores,
        "search": data["search"],
        "layers": data["layers"],
        "num_views": report.settings["num_views"],
        "num_held_out_views": report.settings["num_held_out_views"],
        "seconds": dict(explanation.seconds),
        "files": _files(explanation),
    }


def _describe_soundness(heatmap: Heatmap) -> dict[str, Any]:
    assert heatmap.soundness is not None  # it was asked for
    data = settings_of(heatmap.soundness)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}


def describe_maps(explanation: Explanation) -> list[dict[str, Any]] | None:
    """Return the map values of each token or feature of a text or a row; None for photos, which have pictures."""
    if not explanation.units:
        return None
    found = []
    pairs = (("original", explanation.original_map), ("trace", explanation.trace_map))
    signed = {side: _signed(heatmap) for side, heatmap in pairs}
    absolute = {side: reduce_to_units(heatmap.attribution, heatmap.kind, "sum_abs").tolist() for side, heatmap in pairs}
    for number, unit in enumerate(explanation.units):
        values = {
            side: {"signed": signed[side][number], "absolute": absolute[side][number]} for side in ("original", "trace")
        }
        found.append(
            {
                "name": unit.name,
                "is_special": unit.is_special,
                "is_unknown": unit.is_unknown,
                "value": unit.value,
                **values,
            }
        )
    return found


def maps_table(sample: Mapping[str, Any]) -> str:
    """Return the maps of a text or a row as CSV, with one line per token or feature."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    columns = ["name", "value", "special", "region", "original", "original_absolute", "trace", "trace_absolute"]
    writer.writerow(columns)
    region = set(sample["finding"]["units"])
    for number, unit in enumerate(sample["map_values"]):
        values = [unit[side][reduced] for side in ("original", "trace") for reduced in ("signed", "absolute")]
        value = "" if unit["value"] is None else unit["value"]
        writer.writerow([csv_cell(unit["name"]), value, int(unit["is_special"]), int(number in region), *values])
    return written.getvalue()


def _signed(heatmap: Heatmap) -> list[float]:
    values = heatmap.values if heatmap.reduction == "sum" else reduce_to_units(heatmap.attribution, heatmap.kind, "sum")
    signed: list[float] = values.tolist()
    return signed


def _files(explanation: Explanation) -> dict[str, str]:
    name = explanation.subject.name
    photo = {"region": "region.png", "map": "map.png", "original_map": "original.png", "trace_map": "trace.png"}
    if explanation.contrast is not None:
        photo["contrast"] = "contrast.png"
    maps = {"maps": "maps.csv"} if explanation.units else photo
    return {key: f"{name}/{file}" for key, file in {**maps, "trace": "trace.safetensors"}.items()}


def sparsity_of(trace: Trace) -> float:
    """Return the fraction of all weights of convolutions and linear layers that a trace prunes."""
    return sum(int(pruned.sum()) for pruned in trace.pruned.values()) / _num_weights(trace.report)


def describe_prediction(prediction: Prediction, explained_probability: float, loaded: Loaded) -> dict[str, Any]:
    """Return a model's prediction and its probability of the explained class, for `report.json`."""

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
