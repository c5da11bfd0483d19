"""What a trace is worth: judged on the explained class, and on how much is pruned at all."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from spadelens import extract_trace
from spadelens.extraction.report import Outcome, TraceReport
from spadelens.prediction import Prediction


@pytest.fixture(scope="module")
def report() -> TraceReport:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    return extract_trace(model, torch.randn(3, 8, 8), schedule=0.5, num_views=2).report


def test_the_sparsity_counts_every_weight_of_every_layer(report: TraceReport) -> None:
    sizes = {layer.name: torch.Size(layer.shape).numel() for layer in report.layers}
    assert sizes == {"0": 108, "2": 144, "4": 192}
    assert report.sparsity == (72 + 96) / (108 + 144 + 192)


@pytest.mark.parametrize(
    ("original", "trace", "target", "status"),
    [
        ((0.5, 0.3, 0.2), (0.6, 0.3, 0.1), 0, "kept"),
        ((0.5, 0.3, 0.2), (0.4, 0.5, 0.1), 0, "lost"),
        ((0.5, 0.3, 0.2), (0.4, 0.5, 0.1), 1, "kept"),  # another class wins, but the explained one has not lost
        ((0.5, 0.3, 0.2), (0.5, 0.2, 0.3), 1, "lost"),
        ((0.5, 0.3, 0.2), (0.2, 0.3, 0.5), 1, "kept"),
    ],
)
def test_it_is_judged_on_the_explained_class(
    report: TraceReport, original: tuple[float, ...], trace: tuple[float, ...], target: int, status: str
) -> None:
    found = replace(report, original_prediction=Prediction(original), trace_prediction=Prediction(trace), target=target)
    assert found.status == status
    assert found.is_target_kept == (status == "kept")


def test_labels_are_judged_one_by_one(report: TraceReport) -> None:
    original, trace = Prediction((0.9, 0.8, 0.1), "labels"), Prediction((0.6, 0.2, 0.3), "labels")
    found = [
        replace(report, original_prediction=original, trace_prediction=trace, target=target).status
        for target in range(3)
    ]
    assert found == ["kept", "lost", "kept"]


def test_what_is_hardly_pruned_is_not_called_kept(report: TraceReport) -> None:
    same = Prediction((0.5, 0.3, 0.2))
    layers = [replace(layer, sparsity=0.0, outcome=Outcome.UNPRUNED) for layer in report.layers]
    layers[1] = replace(report.layers[1], sparsity=4 / 144)
    found = replace(report, original_prediction=same, trace_prediction=same, target=0, layers=tuple(layers))
    assert 0.009 < found.sparsity < 0.01 and found.status == "hardly pruned"
    layers[1] = replace(report.layers[1], sparsity=5 / 144)
    assert replace(found, layers=tuple(layers)).status == "kept"
