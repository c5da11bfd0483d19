"""The default solver: picks one of the others for each layer, by the sparsity, the layer's size and the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch

from spadelens.solvers.admm import ADMM
from spadelens.solvers.base import LayerProblem, LayerSolution, Solver
from spadelens.solvers.magnitude import Magnitude
from spadelens.solvers.ols import OLS

# Maximum multiply-adds of one iteration for one sparsity, and the solver to run up to that (docs/benchmarks.md).
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
    """OLS for high sparsities of small layers, otherwise ADMM with as many iterations as take about a second.

    An iteration costs rows · columns · min(columns, 2 · positions) multiply-adds per group. Up to 5e7, ADMM runs 6 x 17
    iterations; up to 5e8, 3 x 6; beyond that, 2 x 4. Up to 1e7, OLS is picked for sparsities of at least 0.97. On a
    CUDA device, these limits are 50 times higher. If all inputs of the layer are zero, magnitude pruning is picked. The
    choice for one sparsity does not depend on the others. The solution's `detail` says what was picked.
    """

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the solution of the picked solvers."""
        return self.solve_all([problem])[0]

    def solve_all(self, problems: Sequence[LayerProblem]) -> list[LayerSolution]:
        """Return the solutions for several samples, solved together if the same solvers are picked for all."""
        picks = [tuple(self.pick(problem, sparsity) for sparsity in problem.sparsities) for problem in problems]
        if len(set(picks)) > 1:
            return [self.solve(problem) for problem in problems]
        picked = picks[0]
        indices = {solver: [i for i, other in enumerate(picked) if other == solver] for solver in dict.fromkeys(picked)}
        found = [solver.solve_all([_at(problem, where) for problem in problems]) for solver, where in indices.items()]
        order = sorted(range(len(picked)), key=[i for where in indices.values() for i in where].__getitem__)
        return [
            LayerSolution(
                torch.cat([part.weights for part in of_sample])[order],
                torch.cat([part.pruned for part in of_sample])[order],
                "; ".join(_describe(solver, part) for solver, part in zip(indices, of_sample, strict=True)),
            )
            for of_sample in zip(*found, strict=True)
        ]

    def pick(self, problem: LayerProblem, sparsity: float) -> Solver:
        """Return the solver for one sparsity of a layer."""
        if not bool(problem.statistics.diagonal().any()):
            return Magnitude(unit=self.unit)
        groups, rows, columns = problem.weight.shape
        cost = groups * rows * columns * min(columns, 2 * problem.statistics.num_positions)
        speed = _GPU_SPEED if problem.weight.device.type == "cuda" else 1.0
        if sparsity >= _LEAST_OLS_SPARSITY and cost <= _MOST_OLS_OPERATIONS * speed:
            return OLS(unit=self.unit)
        effort = next(solver for limit, solver in _EFFORTS if cost <= limit * speed)
        return replace(effort, unit=self.unit)


def _at(problem: LayerProblem, indices: Sequence[int]) -> LayerProblem:
    """Return the problem with the sparsities at `indices` only."""
    return replace(problem, sparsities=tuple(problem.sparsities[i] for i in indices))


def _describe(solver: Solver, solution: LayerSolution) -> str:
    name = type(solver).__name__.lower()
    if isinstance(solver, ADMM):
        name = f"admm {solver.num_stages} x {solver.num_iterations}"
    return f"picked {name}" + (f", {solution.detail}" if solution.detail else "")
