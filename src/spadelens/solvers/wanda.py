"""Wanda: weights scored by their size times that of their inputs, without compensation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from spadelens.solvers.base import LayerProblem, LayerSolution, Solver, prune_by_score


@final
@dataclass(frozen=True)
class Wanda(Solver):
    """Prune the units with the smallest score(unit) = Σ w_j² mean(x_j²): (weight times RMS of its input) squared.

    Source: Sun et al. 2024, 'A simple and effective pruning approach for large language models'. They compare weights
    within a row. Here, all rows of a layer share one budget, so that a small classifier is not emptied.
    """

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the dense weight with the units that contribute least set to zero."""
        mean_square = problem.statistics.diagonal() / 2
        scores = problem.weight.to(mean_square.dtype).square() * mean_square.unsqueeze(1)
        return prune_by_score(problem, scores, self.unit_columns(problem))
