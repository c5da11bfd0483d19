"""The stages of making traces for samples that are under way together: views, solving, search, check, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from spadelens.extract.accumulate import Batches, PositionSampler, gather_statistics, run_batches
from spadelens.extract.criteria import Subject
from spadelens.extract.plan import LayerPlan
from spadelens.extract.report import LayerReport, Outcome, Prediction, SearchReport, TraceReport, package_versions
from spadelens.extract.request import Request
from spadelens.extract.schedule import Auto
from spadelens.extract.search import search
from spadelens.extract.solvers import solver_name
from spadelens.extract.solving import Candidate, SolvedLayer, error_ratio, solve_layer
from spadelens.extract.trace import swapped_weights
from spadelens.layers import weight_to_matrix
from spadelens.numerics import exact_products
from spadelens.settings import settings_of


@dataclass(frozen=True)
class Clock:
    """Adds up the time of stages, each of which may be entered several times."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to the stage `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class Job:
    """What the stages share; subjects are the samples that are under way together."""

    model: nn.Module
    plan: LayerPlan
    request: Request
    subjects: Sequence[Subject]
    batch_size: int
    budget_mib: int
    is_mixed: bool
    clock: Clock

    def batches(self, is_held_out: bool = False) -> Batches:
        """Return the views of all subjects in batches."""
        return Batches([subject.source for subject in self.subjects], self.batch_size, self.is_mixed, is_held_out)

    def sampler(self) -> PositionSampler:
        """Return what picks the positions that are used; the same ones in every pass."""
        return PositionSampler(self.plan, self.request.seed)


@dataclass
class Chosen:
    """The layers of one sample at the sparsities that were chosen for them."""

    solved: Mapping[str, SolvedLayer]
    layers: Mapping[str, Candidate]
    weights: Mapping[str, Tensor]
    sparse: Prediction
    search: SearchReport | None
    held_out_errors: dict[str, float] = field(default_factory=dict)


def choose_layers(job: Job) -> list[Chosen]:
    """Return what is chosen for each sample of the job: views, solving, search, and the check on held-out views."""
    solved = _solve_layers(job)
    chosen = []
    for number, (subject, layers) in enumerate(zip(job.subjects, solved, strict=True)):
        if isinstance(job.request.schedule, Auto):
            with job.clock.stage("search"):
                found = search(layers, job.request.schedule, subject, partial(job.request.progress, "search"))
            chosen.append(Chosen(layers, found.layers, found.weights, found.sparse, found.report))
        else:
            picked = {name: layer.candidates[0] for name, layer in layers.items()}
            weights = {name: candidate.weight() for name, candidate in picked.items()}
            with swapped_weights(job.model, weights):
                chosen.append(Chosen(layers, picked, weights, subject.predict(), None))
        solved[number] = {}
    _measure_held_out(job, chosen)
    return chosen


def _solve_layers(job: Job) -> list[dict[str, SolvedLayer]]:
    request, plan = job.request, job.plan
    passes = list(plan.passes(job.budget_mib))
    num_views = len(job.batches())
    num_layers = len(plan.sparsities) * len(job.subjects)
    solved: list[dict[str, SolvedLayer]] = [{} for _ in job.subjects]
    num_solved = 0
    for number, names in enumerate(passes):

        def done(count: int, before: int = number * num_views) -> None:
            request.progress("views", before + count, num_views * len(passes))

        with job.clock.stage("views"):
            statistics = gather_statistics(
                job.model, plan, names, job.batches(), job.sampler(), request.precision, done
            )
        with job.clock.stage("solve"), exact_products(job.subjects[0].sample.device):
            for name in names:
                request.progress("solve", num_solved, num_layers)
                of_layer = [seen.pop(name) for seen in statistics]
                reached = [number for number, seen in enumerate(of_layer) if seen.num_positions > 0]
                layers = solve_layer(
                    name,
                    plan.modules[name],
                    request.solver,
                    [of_layer[number] for number in reached],
                    plan.sparsities[name],
                )
                for sample, layer in zip(reached, layers, strict=True):
                    solved[sample][name] = layer
                num_solved += len(job.subjects)
    request.progress("solve", num_layers, num_layers)
    return solved


def _measure_held_out(job: Job, chosen: Sequence[Chosen]) -> None:
    """Set the held-out errors, by one more pass over views that no solver has seen."""
    modules = {name: job.plan.modules[name] for of_sample in chosen for name in of_sample.layers}
    num_views = len(job.batches(is_held_out=True))
    if num_views == 0 or not modules:
        return
    dense = {name: weight_to_matrix(module, module.weight.detach()) for name, module in modules.items()}
    sums: list[dict[str, list[Tensor]]] = [{} for _ in chosen]

    def compare(number: int, name: str, inputs: Tensor) -> None:
        if name in chosen[number].layers:
            difference = weight_to_matrix(modules[name], chosen[number].weights[name]) - dense[name]
            found = [(inputs @ weight.mT).float().square().sum() for weight in (difference, dense[name])]
            sums[number].setdefault(name, []).append(torch.stack(found))

    with job.clock.stage("check"):
        run_batches(
            job.model,
            modules,
            job.batches(is_held_out=True),
            job.sampler(),
            lambda count: job.request.progress("check", count, num_views),
            compare,
        )
    for of_sample, found in zip(chosen, sums, strict=True):
        for name, parts in found.items():
            error, output = torch.stack(parts).cpu().double().sum(0)
            of_sample.held_out_errors[name] = error_ratio(error, output)


def make_report(job: Job, subject: Subject, chosen: Chosen) -> TraceReport:
    """Return everything about the trace of one sample but its weights; the seconds are left out."""
    layers = []
    for name, module in job.plan.modules.items():
        left = job.plan.left.get(name)
        if left is None and name not in chosen.solved:
            left = (Outcome.NOT_CALLED, "none of the views reaches it")
        elif left is None and name not in chosen.layers:
            left = (Outcome.DENSE, "the search leaves it dense")
        outcome, detail = left or (Outcome.PRUNED, chosen.solved[name].detail)
        described = LayerReport(name, type(module).__name__, tuple(module.weight.shape), outcome, detail)
        if name in chosen.layers:
            candidate = chosen.layers[name]
            described = replace(
                described,
                sparsity=candidate.sparsity,
                error=candidate.error,
                held_out_error=chosen.held_out_errors.get(name),
                seconds=chosen.solved[name].seconds,
            )
        layers.append(described)
    return TraceReport(
        layers=tuple(layers),
        dense=subject.dense,
        sparse=chosen.sparse,
        settings=_described(job, subject),
        seconds={},
        versions=package_versions(),
        target=subject.target,
        search=chosen.search,
    )


def _described(job: Job, subject: Subject) -> dict[str, Any]:
    request = job.request
    return {
        "preset": request.preset,
        "solver": solver_name(request.solver),
        "solver_settings": settings_of(request.solver),
        "schedule": request.schedule.spec(),
        "layers": None if request.layers is None else list(request.layers),
        "augmentation": subject.source.description,
        "num_views": subject.source.num_views,
        "num_held_out_views": subject.source.num_held_out,
        "positions_per_column": request.positions_per_column,
        "seed": request.seed,
        "batch_size": job.batch_size,
        "memory_budget_mib": job.budget_mib,
        "precision": request.precision,
    }
