"""The solver that picks: which of the others solves a layer, by its columns, sparsities, size and device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from spadelens.solvers.admm import ADMM
from spadelens.solvers.base import LayerProblem, LayerSolution, Solver
from spadelens.solvers.magnitude import Magnitude
from spadelens.solvers.ols import OLS

# Multiply-adds that one iteration for one sparsity may take, and what is then run (docs/benchmarks.md).
_EFFORTS = (
    (5e7, ADMM(num_exchanges=0)),
    (5e8, ADMM(num_stages=3, num_iterations=6, num_exchanges=0)),
    (float("inf"), ADMM(num_stages=2, num_iterations=4, num_exchanges=0)),
)
_GPU_SPEED = 50.0
_MOST_OLS_OPERATIONS, _LEAST_OLS_SPARSITY = 1e7, 0.97


@final
@dataclass(frozen=True)
class AutoSolver(Solver):
    """OLS for high sparsities of small layers, else ADMM with as many iterations as take about a second.

    An iteration costs rows · columns · min(columns, 2 · positions) multiply-adds a group. Up to 5e7 of them, ADMM runs
    6 x 17 iterations, up to 5e8 3 x 6, beyond that 2 x 4; on a GPU the limits are 50 times higher. Up to 1e7, OLS is
    picked for sparsities of at least 0.97; magnitude where no input of the layer is ever other than zero. What is
    picked for one sparsity does not depend on the others. The detail of the solution says what was picked.
    """

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the solutions of the solvers that were picked."""
        return self.solve_all([problem])[0]

    def solve_all(self, problems: Sequence[LayerProblem]) -> list[LayerSolution]:
        """Return the solutions for several samples, together where the same solvers are picked for all."""
        picks = [tuple(self.pick(problem, sparsity) for sparsity in problem.sparsities) for problem in problems]
        if len(set(picks)) > 1:
            return [self.solve(problem) for problem in problems]
        picked = picks[0]
        places = {solver: [i for i, other in enumerate(picked) if other == solver] for solver in dict.fromkeys(picked)}
        found = [solver.solve_all([_at(problem, where) for problem in problems]) for solver, where in places.items()]
        order = sorted(range(len(picked)), key=[place for where in places.values() for place in where].__getitem__)
        return [
            LayerSolution(
                torch.cat([part.weights for part in of_sample])[order],
                torch.cat([part.pruned for part in of_sample])[order],
                "; ".join(_describe(solver, part) for solver, part in zip(places, of_sample, strict=True)),
            )
            for of_sample in zip(*found, strict=True)
        ]

    def pick(self, problem: LayerProblem, sparsity: float) -> Solver:
        """Return the solver of a layer for one sparsity."""
        if not bool(problem.statistics.diagonal().any()):
            return Magnitude(unit=self.unit)
        groups, rows, columns = problem.weight.shape
        cost = groups * rows * columns * min(columns, 2 * problem.statistics.num_positions)
        speed = _GPU_SPEED if problem.weight.device.type == "cuda" else 1.0
        if sparsity >= _LEAST_OLS_SPARSITY and cost <= _MOST_OLS_OPERATIONS * speed:
            return OLS(unit=self.unit)
        effort = next(solver for limit, solver in _EFFORTS if cost <= limit * speed)
        return replace(effort, unit=self.unit)


def _at(problem: LayerProblem, places: Sequence[int]) -> LayerProblem:
    """Return the problem for some of its sparsities only."""
    return replace(problem, sparsities=tuple(problem.sparsities[place] for place in places))


def _describe(solver: Solver, solution: LayerSolution) -> str:
    name = type(solver).__name__.lower()
    if isinstance(solver, ADMM):
        name = f"admm {solver.num_stages} x {solver.num_iterations}"
    return f"picked {name}" + (f", {solution.detail}" if solution.detail else "")
