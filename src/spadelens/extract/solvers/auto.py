"""The solver that picks: which of the others solves a layer, by its columns, sparsities, size and device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from spadelens.extract.solvers.admm import ADMM
from spadelens.extract.solvers.base import LayerProblem, LayerSolution, Solver
from spadelens.extract.solvers.magnitude import Magnitude
from spadelens.extract.solvers.ols import OLS

# Multiply-adds that one iteration for one sparsity may take, and what is then run (docs/benchmarks.md).
_EFFORTS = (
    (5e7, ADMM(num_exchanges=0)),
    (1e9, ADMM(num_stages=3, num_iterations=6, num_exchanges=0)),
    (float("inf"), ADMM(num_stages=2, num_iterations=4, num_exchanges=0)),
)
_GPU_SPEED = 50.0
_MOST_OLS_OPERATIONS, _LEAST_OLS_SPARSITY = 1e7, 0.97


@final
@dataclass(frozen=True)
class AutoSolver(Solver):
    """OLS for high sparsities of small layers, else ADMM with as many iterations as take about a second.

    An iteration costs rows · columns · min(columns, 2 · positions) multiply-adds a group. Up to 5e7 of them, ADMM runs
    6 x 17 iterations, up to 1e9 3 x 6, beyond that 2 x 4; on a GPU the limits are 50 times higher. Up to 1e7, OLS is
    picked for sparsities of at least 0.97; magnitude where no input of the layer is ever other than zero. What is
    picked for one sparsity does not depend on the others. The detail of the solution says what was picked.
    """

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the solutions of the solvers that were picked."""
        picked = [self.pick(problem, sparsity) for sparsity in problem.sparsities]
        weights, masks = [problem.weight] * len(picked), [problem.weight] * len(picked)
        details = []
        for solver in dict.fromkeys(picked):
            places = [place for place, other in enumerate(picked) if other == solver]
            sparsities = tuple(problem.sparsities[place] for place in places)
            solution = solver.solve(replace(problem, sparsities=sparsities))
            for place, weight, pruned in zip(places, solution.weights, solution.pruned, strict=True):
                weights[place], masks[place] = weight, pruned
            name = type(solver).__name__.lower()
            if isinstance(solver, ADMM):
                name = f"admm {solver.num_stages} x {solver.num_iterations}"
            details.append(f"picked {name}" + (f", {solution.detail}" if solution.detail else ""))
        return LayerSolution(torch.stack(weights), torch.stack(masks), "; ".join(details))

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
