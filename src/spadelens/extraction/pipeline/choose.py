"""The later stages of making traces: choosing a sparsity for every layer, the check on held-out views, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spadelens.extraction.pipeline.accumulate import run_batches
from spadelens.extraction.pipeline.criteria import ExplainedSample
from spadelens.extraction.pipeline.plan import statistics_dtype
from spadelens.extraction.pipeline.search import search
from spadelens.extraction.pipeline.solving import Candidate, SolvedLayer, error_ratio
from spadelens.extraction.pipeline.stages import Job
from spadelens.extraction.report import LayerReport, Outcome, SearchReport, TraceReport, package_versions
from spadelens.extraction.trace import Trace, swapped_weights
from spadelens.matrix_layers import other_weights, weight_to_matrix
from spadelens.prediction import Prediction
from spadelens.schedules.schedule import SearchedSchedule, TableWithFallback


@dataclass
class Selection:
    """The layers of one sample at the sparsities that were chosen for them.

    Attributes:
        number: Of the sample, among those of the job.
        solved: Name of each layer that was solved -> the solver note and the seconds that it took.
        layers: Name of each layer that is pruned -> the candidate that was chosen.
        weights: Name of each layer that is pruned -> its weight.
        prediction: What the trace predicts.
        search: How it was chosen, where it was searched.
        held_out_errors: Set by `measure_held_out`.
    """

    number: int
    solved: Mapping[str, tuple[str, float]]
    layers: Mapping[str, Candidate]
    weights: Mapping[str, Tensor]
    prediction: Prediction
    search: SearchReport | None = None
    held_out_errors: dict[str, float] = field(default_factory=dict)


def choose_layers(job: Job, number: int, solved: Mapping[str, SolvedLayer]) -> Selection:
    """Return what the schedule chooses for a sample of the job, of its solved layers."""
    schedule = job.request.schedule
    if isinstance(schedule, TableWithFallback):
        schedule = schedule.search
    if not isinstance(schedule, SearchedSchedule):
        return pick(job, number, solved, {name: layer.candidates[0] for name, layer in solved.items()})
    with job.clock.stage("search"):
        result = search(solved, schedule, job.explained[number], partial(job.request.progress, "search"))
    return Selection(number, _described_layers(solved), result.layers, result.weights, result.prediction, result.report)


def pick(job: Job, number: int, solved: Mapping[str, SolvedLayer], picked: Mapping[str, Candidate]) -> Selection:
    """Return given candidates of a sample as what is chosen."""
    weights = {name: candidate.weight() for name, candidate in picked.items()}
    with swapped_weights(job.model, weights):
        sparse = job.explained[number].predict()
    return Selection(number, _described_layers(solved), picked, weights, sparse)


def _described_layers(solved: Mapping[str, SolvedLayer]) -> dict[str, tuple[str, float]]:
    return {name: (layer.detail, layer.seconds) for name, layer in solved.items()}


def measure_held_out(job: Job, chosen: Sequence[Selection]) -> None:
    """Set the held-out errors of all that was chosen, by one more pass over views that no solver has seen."""
    modules = {name: job.plan.modules[name] for one in chosen for name in one.layers}
    num_views = len(job.batches(is_held_out=True))
    if num_views == 0 or not modules:
        return
    dtypes = {name: statistics_dtype(module) for name, module in modules.items()}
    dense = {name: weight_to_matrix(m, m.weight.detach().to(dtypes[name])) for name, m in modules.items()}
    sums: list[dict[str, list[Tensor]]] = [{} for _ in chosen]

    def compare(number: int, name: str, inputs: Tensor) -> None:
        inputs = inputs.to(dtypes[name])  # half precision may overflow, and rounds what is compared
        output = (inputs @ dense[name].mT).float().square().sum()
        for one, sums_of_one in zip(chosen, sums, strict=True):
            if one.number == number and name in one.layers:
                difference = weight_to_matrix(modules[name], one.weights[name]) - dense[name]
                error = (inputs @ difference.mT).float().square().sum()
                sums_of_one.setdefault(name, []).append(torch.stack([error, output]))

    with job.clock.stage("check"):
        run_batches(
            job.model,
            modules,
            job.batches(is_held_out=True),
            job.sampler(),
            lambda count: job.request.progress("check", count, num_views),
            compare,
        )
    for one, found in zip(chosen, sums, strict=True):
        for name, parts in found.items():
            error, output = torch.stack(parts).cpu().double().sum(0)
            one.held_out_errors[name] = error_ratio(error, output)


def make_trace(job: Job, chosen: Selection) -> Trace:
    """Return the trace of what has been chosen; the seconds of its report are left out."""
    pruned = {name: ~candidate.kept for name, candidate in chosen.layers.items()}
    return Trace(job.original, chosen.weights, pruned, _make_report(job, chosen), *job.identity)


def _make_report(job: Job, chosen: Selection) -> TraceReport:
    explained = job.explained[chosen.number]
    layers = []
    for name, module in job.plan.modules.items():
        left = job.plan.left.get(name)
        if left is None and name not in chosen.solved:
            left = (Outcome.NOT_CALLED, "no view reaches it")
        elif left is None and name not in chosen.layers:
            left = (Outcome.UNPRUNED, "the search does not prune it")
        if left is None:
            notes = (chosen.solved[name][0], job.plan.arrangement.note(name))
            left = (Outcome.PRUNED, "; ".join(filter(None, notes)))
        outcome, detail = left
        described = LayerReport(name, type(module).__name__, tuple(module.weight.shape), outcome, detail)
        if name in chosen.layers:
            candidate = chosen.layers[name]
            described = replace(
                described,
                sparsity=candidate.sparsity,
                error=candidate.error,
                held_out_error=chosen.held_out_errors.get(name),
                seconds=chosen.solved[name][1],
            )
        layers.append(described)
    for name, (kind, shape) in other_weights(job.model).items():
        reason = "only convolutions and linear layers are pruned"
        layers.append(LayerReport(name, kind, tuple(shape), Outcome.UNSUPPORTED, reason))
    return TraceReport(
        layers=tuple(layers),
        original_prediction=explained.prediction,
        trace_prediction=chosen.prediction,
        settings=_described(job, explained),
        seconds={},
        versions=package_versions(),
        target=explained.target,
        kind=job.request.kind,
        search=chosen.search,
    )


def _described(job: Job, explained: ExplainedSample) -> dict[str, Any]:
    source = explained.source
    return job.request.options.described() | {
        "augmentation": source.description,
        "num_views": source.num_views,
        "num_held_out_views": source.num_held_out,
        "batch_size": job.batch_size,
        "memory_budget_mib": job.budget_mib,
    }
