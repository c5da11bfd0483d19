"""OBC: exact greedy pruning with full compensation, the solver of the SPADE paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from spadelens.solvers.base import (
    LayerProblem,
    LayerSolution,
    Solver,
    check_positive,
    num_units_pruned,
)
from spadelens.solvers.preparation import damp, refit
from spadelens.solvers.removal import removal_order


@final
@dataclass(frozen=True)
class OBC(Solver):
    """Remove one unit at a time from every row, always the one with the smallest loss after full compensation.

    For a unit B among the remaining columns S of a row, the loss is w_Bᵀ ([H_SS⁻¹]_BB)⁻¹ w_B, and the remaining
    weights change by -[H_SS⁻¹]_:B ([H_SS⁻¹]_BB)⁻¹ w_B. All rows of a layer share one budget: their removals are merged
    by the running maximum of the losses, so that each row contributes a prefix of its own order. The remaining weights
    are refitted exactly. All sparsities are read off the same order.

    Source: Frantar & Alistarh 2022, 'Optimal Brain Compression'. The removals are those of a pivoted Cholesky
    factorization of H⁻¹. Instead of a rank-1 update of every row's inverse at every step, the factor's rows are folded
    in every 32 steps. Cost: columns³ / 3 multiply-adds per row; for layers with thousands of columns, use another
    solver.

    Attributes:
        damping: Added to the Hessian's diagonal, as a fraction of its mean.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        super().__post_init__()
        check_positive(self.damping, "damping")

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the weights, refitted on the supports that the greedy order leaves."""
        damped = damp(problem, self.damping)
        unit = self.unit_columns(problem)
        groups, rows, columns = damped.weight.shape
        everything = torch.ones(groups, rows, columns // unit, dtype=torch.bool, device=damped.weight.device)
        counts = [num_units_pruned(everything.numel(), sparsity) for sparsity in problem.sparsities]
        order = removal_order(damped, everything, unit, max(counts, default=0))
        weights, masks = [], []
        for count in counts:
            pruned = order.pruned(count).repeat_interleave(unit, dim=-1)
            weights.append(damped.restore_dead(refit(damped, ~pruned), pruned))
            masks.append(pruned)
        return LayerSolution(weights=torch.stack(weights), pruned=torch.stack(masks))
