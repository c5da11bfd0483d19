"""Solves one layer at all sparsities that are asked for, checks what the solver returned, and keeps it small."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spadelens.capture.hessian import InputStatistics
from spadelens.errors import SolverError
from spadelens.matrix_layers import MatrixLayer, matrix_to_weight, unit_columns, weight_to_matrix
from spadelens.numerics import solver_device
from spadelens.solvers.base import LayerProblem, LayerSolution, Solver, num_units_pruned


@final
@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer at one sparsity.

    Attributes:
        sparsity: The fraction of its weights that are pruned.
        error: ||(W' - W) X||² / ||W X||² on the views.
        kept: Which weights are not pruned, in the layer's own shape, boolean.
        values: Those weights, in order.
    """

    sparsity: float
    error: float
    kept: Tensor
    values: Tensor

    def weight(self) -> Tensor:
        """Return the sparse weight in the layer's own shape."""
        return torch.zeros_like(self.kept, dtype=self.values.dtype).masked_scatter_(self.kept, self.values)


@final
@dataclass(frozen=True, eq=False)
class SolvedLayer:
    """A layer at several sparsities, in the order in which they were asked for.

    Attributes:
        candidates: One for each sparsity.
        detail: The solver note.
        seconds: What solving took.
    """

    candidates: tuple[Candidate, ...]
    detail: str
    seconds: float


def solve_layer(
    name: str,
    module: MatrixLayer,
    solver: Solver,
    statistics: Sequence[InputStatistics],
    sparsities: tuple[float, ...],
) -> list[SolvedLayer]:
    """Return the layer at all `sparsities`, for each sample whose statistics are given.

    Raises:
        SolverError: It cannot be solved, or the solver, which may be the user's own, breaks its contract.
    """
    start = time.perf_counter()
    device = solver_device(module.weight.device)
    dense = weight_to_matrix(module, module.weight.detach().to(device))
    columns = unit_columns(module, "kernel")
    problems = [LayerProblem(name, dense, seen.to(device), sparsities, columns) for seen in statistics]
    try:
        solutions = solver.solve_all(problems) if problems else []
    except SolverError as error:
        raise SolverError(f"Cannot solve layer {name!r}. {error}") from error
    found = []
    for problem, solution in zip(problems, solutions, strict=True):
        _check_solution(solver, problem, solution)
        found.append((tuple(_candidates(module, problem, solution)), solution.detail))
    seconds = (time.perf_counter() - start) / max(1, len(found))
    return [SolvedLayer(candidates, detail, seconds) for candidates, detail in found]


def _candidates(module: MatrixLayer, problem: LayerProblem, solution: LayerSolution) -> Iterator[Candidate]:
    outputs = problem.statistics.mean_squared_output(problem.weight)
    for weight, pruned in zip(solution.weights, solution.pruned, strict=True):
        kept = ~matrix_to_weight(module, pruned).to(module.weight.device)
        values = matrix_to_weight(module, weight).to(module.weight.device)[kept]
        error = error_ratio(problem.statistics.mean_squared_output(weight - problem.weight), outputs)
        yield Candidate(1.0 - int(kept.count_nonzero()) / kept.numel(), error, kept, values)


def error_ratio(error: Tensor, output: Tensor) -> float:
    """Return error / output; outputs that are zero everywhere are reproduced without error by any weight."""
    return 0.0 if float(output) == 0 else float(error / output)


def _check_solution(solver: Solver, problem: LayerProblem, solution: LayerSolution) -> None:
    expected = (len(problem.sparsities), *problem.weight.shape)
    unit = solver.unit_columns(problem)
    counts = [unit * num_units_pruned(problem.weight.numel() // unit, sparsity) for sparsity in problem.sparsities]
    weights, pruned = solution.weights, solution.pruned
    if weights.shape != expected or pruned.shape != expected or pruned.dtype != torch.bool:
        flaw = f"returned weights of shape {list(weights.shape)}, expected {list(expected)}"
    elif weights.numel() and not bool(torch.isfinite(torch.stack(torch.aminmax(weights))).all()):
        flaw = "returned weights that are not finite"
    elif bool((weights != 0).logical_and_(pruned).any()):
        flaw = "returned pruned weights that are not zero"
    elif (found := [int(of_one.count_nonzero()) for of_one in pruned]) != counts:
        flaw = f"pruned {found} weights, expected {counts},"
    else:
        return
    raise SolverError(f"The solver {flaw} for layer {problem.name!r}.")
