"""How traces and ensembles show themselves in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spadelens import snippets

if TYPE_CHECKING:
    from spadelens.extraction.ensemble import TraceEnsemble
    from spadelens.extraction.report import TraceReport
    from spadelens.extraction.trace import Trace
    from spadelens.prediction import Prediction

_MOST_MEMBERS, _MOST_LABELS = 12, 5


def trace_html(trace: Trace) -> str:
    """Return what a notebook shows of a trace: predictions, and how much of each layer is pruned."""
    report = trace.report
    name = snippets.shortened(type(trace.original_model).__name__, 60)
    return snippets.block(
        f"Trace of {name} for class {report.target}",
        snippets.table(
            ("", "original model", "trace"),
            [
                ("prediction", _predicted(report.original_prediction), _predicted(report.trace_prediction)),
                (f"class {report.target}", *(f"{share:.1%}" for share in _of_target(report))),
                ("weights pruned", "", f"{report.sparsity:.1%}"),
                ("layers pruned", "", f"{len(report.pruned_layers)} of {len(report.layers)}"),
                ("prediction kept", "", report.status),
            ],
        ),
        _sparsities(report),
    )


def ensemble_html(ensemble: TraceEnsemble) -> str:
    """Return what a notebook shows of an ensemble: its members, and the layers of the first one."""
    report = ensemble.report
    shown = list(zip(ensemble.members, ensemble.weights, strict=True))[:_MOST_MEMBERS]
    rows = [
        (
            f"trace {number}",
            f"{weight:g}",
            f"{trace.report.sparsity:.1%}",
            _predicted(trace.report.trace_prediction),
            f"{_of_target(trace.report)[1]:.1%}",
        )
        for number, (trace, weight) in enumerate(shown)
    ]
    model = (
        "original model",
        f"{ensemble.original_weight:g}",
        "",
        _predicted(report.original_prediction),
        f"{_of_target(report)[0]:.1%}",
    )
    left_out = len(ensemble.members) - len(shown)
    return snippets.block(
        f"Ensemble of {len(ensemble.members)} traces for class {report.target}",
        snippets.table(("", "weight", "pruned", "prediction", f"class {report.target}"), [*rows, model]),
        snippets.line(f"and {left_out} more traces") if left_out else "",
        _sparsities(report),
    )


def _of_target(report: TraceReport) -> tuple[float, float]:
    """Return the probability of the explained class on the original model and on the trace."""
    original, trace = report.original_prediction, report.trace_prediction
    return original.probabilities[report.target], trace.probabilities[report.target]


def _predicted(prediction: Prediction) -> str:
    if prediction.outputs == "classes":
        return f"class {prediction.class_index}, {prediction.probability:.1%}"
    labels = prediction.answer
    more = ", ..." if len(labels) > _MOST_LABELS else ""
    return f"labels {', '.join(map(str, labels[:_MOST_LABELS]))}{more}" if labels else "no label"


def _sparsities(report: TraceReport) -> str:
    import torch

    from spadelens.pictures import bars_picture

    called = [layer.sparsity for layer in report.layers]
    if not any(called):
        return snippets.line("No layer is pruned.")
    caption = f"pruned share of each of the {len(called)} layers, at most {max(called):.0%}"
    return snippets.pictures([bars_picture(torch.tensor(called))], [caption])
