"""Magnitude pruning: the baseline that ignores the sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from spadelens.solvers.base import LayerProblem, LayerSolution, Solver, prune_by_score


@final
@dataclass(frozen=True)
class Magnitude(Solver):
    """Prune the units with the smallest norm: score(unit) = Σ w²."""

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the dense weight with its smallest units set to zero."""
        return prune_by_score(problem, problem.weight.double().square(), self.unit_columns(problem))
