"""What a notebook shows of traces and ensembles."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from references.networks import Pooled, seeded
from references.shown import shown

from spadelens import Trace, TraceEnsemble, extract_ensemble, extract_trace
from spadelens.extraction.report import Outcome
from spadelens.prediction import Prediction

ATTACK = "<script>alert(1)</script>\"'&"
SAMPLE = torch.randn(2, 9, 11, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def trace() -> Trace:
    sparsities = {"second": 0.5, "head": 0.25}
    return extract_trace(seeded(Pooled, 0), SAMPLE, schedule=sparsities, preset="fast", num_views=8)


def test_a_trace_shows_predictions_and_layers(trace: Trace) -> None:
    page = shown(trace)
    report = trace.report
    assert page.texts[0] == f"Trace of Pooled for class {report.target}"
    for prediction in (report.original_prediction, report.trace_prediction):
        assert f"class {prediction.class_index}, {prediction.probability:.1%}" in page.texts
    assert "2 of 3" in page.texts
    assert f"{report.sparsity:.1%}" in page.texts
    assert report.status in page.texts
    summary = f"{report.status}, {report.sparsity:.1%} pruned, 2 of 3 layers"
    assert repr(report) == f"<TraceReport for class {report.target}: {summary}>"
    (picture,) = page.pictures
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels[..., 0] > pixels[..., 2] + 50).sum(0)
    largest = max(layer.sparsity for layer in report.layers)
    third = pixels.shape[1] // 3
    expected = [round(96 * layer.sparsity / largest) for layer in report.layers]
    assert red[[0, third, 2 * third]].tolist() == pytest.approx(expected, abs=1)


def test_large_traces_stay_small(trace: Trace) -> None:
    class Long(torch.nn.Module):
        pass

    Long.__name__ = ATTACK * 99
    layers = [replace(trace.report.layers[0], name=ATTACK * 99, sparsity=0.3 + n / 2000) for n in range(1000)]
    many = Prediction(tuple([0.5] * 1000), "labels")
    report = replace(trace.report, layers=tuple(layers), original_prediction=many, trace_prediction=many)
    large = replace(trace, report=report)
    object.__setattr__(large, "original_model", Long())
    assert "labels 0, 1, 2, 3, 4, ..." in shown(large).texts
    ensemble = TraceEnsemble((large,) * 50, (1.0,) * 50)
    assert "and 38 more traces" in shown(ensemble).texts
    none = replace(trace.report, original_prediction=Prediction((0.1,) * 4, "labels"))
    assert "no label" in shown(replace(trace, report=none)).texts


def test_a_trace_without_pruned_layers(trace: Trace) -> None:
    layers = [replace(layer, sparsity=0.0, outcome=Outcome.UNPRUNED) for layer in trace.report.layers]
    page = shown(replace(trace, report=replace(trace.report, layers=tuple(layers))))
    assert page.texts[-1] == "No layer is pruned."
    assert page.pictures == []


def test_an_ensemble_shows_its_members() -> None:
    ensemble = extract_ensemble(seeded(Pooled, 0), SAMPLE, sparsities=(0.1, 0.3), num_views=8)
    page = shown(ensemble)
    count = len(ensemble.members)
    assert page.texts[0] == f"Ensemble of {count} traces for class {ensemble.report.target}"
    for number, member in enumerate(ensemble.members):
        row = page.texts.index(f"trace {number}")
        assert page.texts[row + 1 : row + 3] == ["1", f"{member.report.sparsity:.1%}"]
    assert page.texts[page.texts.index("original model") + 1] == "1"
    assert len(page.pictures) == 1
