"""`extract_trace`: the only file that joins views, capture, solvers and schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from spadelens import defaults
from spadelens.errors import InputError, SolverError
from spadelens.extract.augment import AugmentationLike
from spadelens.extract.capture import capture_inputs, class_scores, probe
from spadelens.extract.hessian import HessianStatistics
from spadelens.extract.plan import LayerPlan, make_plan, statistics_dtype
from spadelens.extract.report import (
    LayerReport,
    Outcome,
    Prediction,
    TraceReport,
    are_probabilities,
    package_versions,
    predict,
)
from spadelens.extract.sample import check_sample
from spadelens.extract.schedule import ScheduleLike, parse_schedule
from spadelens.extract.solvers import LayerProblem, LayerSolution, Solver, parse_solver, solver_name
from spadelens.extract.solvers.base import num_units_pruned
from spadelens.extract.storage import fingerprint
from spadelens.extract.trace import Trace, swapped_weights
from spadelens.extract.views import ViewSource, augmented_views, check_count, given_views
from spadelens.layers import matrix_to_weight, unit_columns, weight_to_matrix
from spadelens.numerics import exact_products, solver_device
from spadelens.settings import settings_of

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(stage, done, total); the stages are 'views', 'solve' and 'check'."""


@torch.inference_mode(False)  # weights made in that mode could never be differentiated through
def extract_trace(
    model: nn.Module,
    sample: Tensor,
    *,
    augmentation: AugmentationLike = defaults.AUGMENTATION,
    views: Tensor | Iterable[Tensor] | None = None,
    solver: str | Solver = defaults.SOLVER,
    schedule: ScheduleLike = defaults.SCHEDULE,
    layers: Sequence[str] | None = None,
    num_views: int = defaults.NUM_VIEWS,
    seed: int = 0,
    batch_size: int | None = None,
    memory_budget_mib: int = 1024,
    progress: Progress | None = None,
) -> Trace:
    """Prune every layer of `model` to the few weights that still reproduce its output on views of `sample`.

    Each layer is solved on its own, from the inputs that it gets in the dense model. The model is run in evaluation
    mode and is left exactly as it was. The same arguments give the same trace, however ready-made views come in
    batches. Another `batch_size` gives the same views, but sums are rounded otherwise: weights that cost the same to
    seven digits may then change places (0 to 10 of 300,000 were seen, in float32).

    Args:
        model: Any module that maps a batch of samples to class scores `[batch, classes]`.
        sample: The input to explain, `[C, H, W]`, as the model expects it (normalized), without a batch dimension.
        augmentation: How views are made: 'noise', 'paper' or 'none', with settings as in 'noise:std=0.1'; an
            `Augmentation`; or any callable from a sample to one view. View 0 is always the sample itself.
        views: Ready-made views in place of an augmentation: a tensor `[B, ...]` or an iterable of such batches.
        solver: 'sparsegpt', 'obc', 'wanda', 'magnitude', with settings as in 'sparsegpt:unit=kernel', or a `Solver`.
        schedule: The sparsity of every layer: a number in [0, 1), a table {pattern: sparsity}, a text as for
            `--schedule`, or a `Schedule`.
        layers: Patterns of the layers that may be pruned; by default every convolution but the first, and every
            linear layer.
        num_views: How many views to make, the sample included. An eighth as many again are made to measure the error
            on views that the solver has not seen.
        seed: Determines the views.
        batch_size: Views per forward pass; by default chosen such that the unfolded inputs of the largest layer take
            64 MiB, and at most 32.
        memory_budget_mib: Memory for what is accumulated of the layers' inputs, the Hessians. Where those of all layers
            do not fit, the views are run several times; a layer whose own Hessian is larger stays dense, and is said
            so in the report. Solving a layer takes several times the memory of its Hessian.
        progress: Called as progress(stage, done, total).

    Returns:
        The trace; its `report` says what became of every layer.

    Raises:
        InputError: An argument is out of range; UnknownNameError: there is no such solver or augmentation.
        ScheduleError: The schedule does not fit the model.
        ModelOutputError: The model fails on the sample, or does not return finite class scores.
        NothingToPruneError: The model has no layer that may be pruned.
        SolverError: A layer cannot be solved.
    """
    sample = check_sample(model, sample)
    check_count(memory_budget_mib, "memory_budget_mib", at_least=1)
    if batch_size is not None:
        check_count(batch_size, "batch_size", at_least=1)
    chosen_solver = parse_solver(solver) if isinstance(solver, str) else solver
    if not isinstance(chosen_solver, Solver):
        raise InputError(f"Cannot use {solver!r} as a solver: expected a name or an instance of a solver.")
    chosen_schedule = parse_schedule(schedule)
    source = augmented_views(sample, augmentation, num_views, seed) if views is None else given_views(sample, views)
    clock = _Clock()
    with clock.stage("probe"):
        looked = probe(model, sample)
        plan = make_plan(model, looked, chosen_schedule, layers, memory_budget_mib)
    job = _Job(model, plan, sample.device, source, batch_size or plan.views_per_batch, progress or _no_progress, clock)
    solved = _solve_layers(job, chosen_solver, memory_budget_mib)
    _measure_held_out(job, solved)
    weights = {name: layer.weight for name, layer in solved.items()}
    with swapped_weights(model, weights):
        sparse_scores = class_scores(model, sample.unsqueeze(0))[0]
    is_distribution = are_probabilities(looked.scores)
    sparse = predict(sparse_scores, is_distribution)
    settings = {
        "solver": solver_name(chosen_solver),
        "solver_settings": settings_of(chosen_solver),
        "schedule": chosen_schedule.spec(),
        "layers": None if layers is None else list(layers),
        "augmentation": source.description,
        "num_views": source.num_views,
        "num_held_out_views": source.num_held_out,
        "seed": seed,
        "batch_size": job.batch_size,
        "memory_budget_mib": memory_budget_mib,
    }
    return Trace(
        dense_model=model,
        weights=weights,
        pruned={name: layer.pruned for name, layer in solved.items()},
        report=_report(job, solved, predict(looked.scores, is_distribution), sparse, settings),
        model_fingerprint=fingerprint(model),
    )


@dataclass
class _Solved:
    """One solved layer, in the layer's own shape."""

    weight: Tensor
    pruned: Tensor
    error: float
    seconds: float
    detail: str = ""
    held_out_error: float | None = None


@dataclass(frozen=True)
class _Clock:
    """Adds up the time of stages, each of which may be entered several times."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class _Job:
    """What the stages share."""

    model: nn.Module
    plan: LayerPlan
    device: torch.device
    source: ViewSource
    batch_size: int
    progress: Progress
    clock: _Clock


def _solve_layers(job: _Job, solver: Solver, budget_mib: int) -> dict[str, _Solved]:
    passes = list(job.plan.passes(budget_mib))
    num_layers, num_views = len(job.plan.sparsities), job.source.num_views * len(passes)
    solved: dict[str, _Solved] = {}
    for number, names in enumerate(passes):
        with job.clock.stage("views"):
            statistics = _accumulate(job, names, number * job.source.num_views, num_views)
        with job.clock.stage("solve"), exact_products(job.device):
            for name in names:
                job.progress("solve", len(solved), num_layers)
                seen = statistics.pop(name)
                if seen.num_positions > 0:
                    solved[name] = _solve_layer(name, job.plan, solver, seen)
    job.progress("solve", num_layers, num_layers)
    return solved


def _accumulate(job: _Job, names: Sequence[str], done: int, total: int) -> dict[str, HessianStatistics]:
    """Run all views through the model once and return the Hessians of the layers `names`."""
    modules = {name: job.plan.modules[name] for name in names}
    statistics = {}
    for name, module in modules.items():
        groups, _, columns = job.plan.matrix_shapes[name]
        statistics[name] = HessianStatistics(groups, columns, statistics_dtype(module), module.weight.device)
    batches = _reported(job, "views", job.source.batches(job.batch_size), done, total)
    capture_inputs(job.model, modules, batches, lambda name, inputs: statistics[name].add(inputs))
    return statistics


def _solve_layer(name: str, plan: LayerPlan, solver: Solver, statistics: HessianStatistics) -> _Solved:
    start = time.perf_counter()
    module = plan.modules[name]
    statistics = statistics.to(solver_device(module.weight.device))
    dense = weight_to_matrix(module, module.weight.detach().to(solver_device(module.weight.device)))
    problem = LayerProblem(name, dense, statistics, (plan.sparsities[name],), unit_columns(module, "kernel"))
    solution = solver.solve(problem)
    _check_solution(solver, problem, solution)
    weight = solution.weights[0]
    error = _ratio(statistics.mean_squared_output(weight - dense), statistics.mean_squared_output(dense))
    return _Solved(
        weight=matrix_to_weight(module, weight).to(module.weight.device),
        pruned=matrix_to_weight(module, solution.pruned[0]).to(module.weight.device),
        error=error,
        seconds=time.perf_counter() - start,
        detail=solution.detail,
    )


def _check_solution(solver: Solver, problem: LayerProblem, solution: LayerSolution) -> None:
    """Raise `SolverError` if a solver, which may be the user's own, breaks its contract."""
    expected = (len(problem.sparsities), *problem.weight.shape)
    unit = solver.unit_columns(problem)
    counts = [unit * num_units_pruned(problem.weight.numel() // unit, sparsity) for sparsity in problem.sparsities]
    weights, pruned = solution.weights, solution.pruned
    if weights.shape != expected or pruned.shape != expected or pruned.dtype != torch.bool:
        flaw = f"returned weights of shape {list(weights.shape)}, expected {list(expected)}"
    elif not bool(torch.isfinite(weights).all()):
        flaw = "returned weights that are not finite"
    elif bool(weights[pruned].any()):
        flaw = "returned pruned weights that are not zero"
    elif pruned.flatten(1).sum(1).tolist() != counts:
        flaw = f"pruned {pruned.flatten(1).sum(1).tolist()} weights, expected {counts},"
    else:
        return
    raise SolverError(f"The solver {flaw} for layer {problem.name!r}.")


def _measure_held_out(job: _Job, solved: Mapping[str, _Solved]) -> None:
    """Set the held-out error of every solved layer, by one more pass over views that no solver has seen."""
    if job.source.num_held_out == 0 or not solved:
        return
    modules = {name: job.plan.modules[name] for name in solved}
    sums: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in solved}

    def compare(name: str, inputs: Tensor) -> None:
        module = modules[name]
        dense = weight_to_matrix(module, module.weight.detach())
        difference = weight_to_matrix(module, solved[name].weight) - dense
        error, output = ((inputs @ weight.transpose(1, 2)).float().square().sum() for weight in (difference, dense))
        sums[name].append((error, output))

    with job.clock.stage("check"):
        batches = job.source.held_out_batches(job.batch_size)
        capture_inputs(job.model, modules, _reported(job, "check", batches, 0, job.source.num_held_out), compare)
    for name, found in sums.items():
        if found:  # none of the held-out views may reach the layer
            errors, outputs = (torch.stack(values).cpu().double().sum() for values in zip(*found, strict=True))
            solved[name].held_out_error = _ratio(errors, outputs)


def _reported(job: _Job, stage: str, batches: Iterable[Tensor], done: int, total: int) -> Iterator[Tensor]:
    """Yield `batches`, reporting after each that the model has run it."""
    job.progress(stage, done, total)
    for batch in batches:
        yield batch
        done += len(batch)
        job.progress(stage, done, total)


def _report(
    job: _Job, solved: Mapping[str, _Solved], dense: Prediction, sparse: Prediction, settings: Mapping[str, Any]
) -> TraceReport:
    layers = []
    for name, module in job.plan.modules.items():
        kind, shape = type(module).__name__, tuple(module.weight.shape)
        if name not in solved:
            outcome, detail = job.plan.left.get(name, (Outcome.NOT_CALLED, "none of the views reaches it"))
            layers.append(LayerReport(name, kind, shape, outcome, detail))
            continue
        layer = solved[name]
        layers.append(
            LayerReport(
                name,
                kind,
                shape,
                Outcome.PRUNED,
                layer.detail,
                sparsity=int(layer.pruned.sum()) / layer.pruned.numel(),
                error=layer.error,
                held_out_error=layer.held_out_error,
                seconds=layer.seconds,
            )
        )
    return TraceReport(
        layers=tuple(layers),
        dense=dense,
        sparse=sparse,
        settings=settings,
        seconds=dict(job.clock.seconds),
        versions=package_versions(),
    )


def _ratio(error: Tensor, output: Tensor) -> float:
    """Return error / output; outputs that are zero everywhere are reproduced without error by any weight."""
    return 0.0 if float(output) == 0 else float(error / output)


def _no_progress(stage: str, done: int, total: int) -> None:
    del stage, done, total
