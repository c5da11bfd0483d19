"""OLS: forward selection to more weights than are wanted, then backward to those that are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch

from spadelens.errors import InputError
from spadelens.solvers.addition import addition_order
from spadelens.solvers.base import LayerProblem, LayerSolution, Solver, check_positive, num_units_pruned
from spadelens.solvers.preparation import DampedProblem, damp, refit
from spadelens.solvers.removal import RemovalOrder, removal_order


@final
@dataclass(frozen=True)
class OLS(Solver):
    """Add units to empty rows, always the most useful one, until there are twice as many as wanted; then remove.

    With S the support of a row and g = (W - W') H its gradient, adding the unit B lowers the error by

        gain(B) = gᵦᵀ (H_BB - H_BS H_SS⁻¹ H_SB)⁻¹ gᵦ

    and removing it again costs w_Bᵀ ([H_SS⁻¹]_BB)⁻¹ w_B, all other weights on S being refitted each time. The budgets
    are shared by all rows of the layer in both directions: by the running minimum of the gains, by the running maximum
    of the losses. What is kept in the end is refitted exactly.

    Source: Chen, Billings & Luo 1989, 'Orthogonal least squares methods', for the forward selection; that going back
    from twice the number pays was found by measurement (docs/benchmarks.md). It is meant for sparsities from 0.95 on;
    where twice the number is everything, this is OBC. Cost, with k weights kept in a row: columns · (2k)² / 2
    multiply-adds forward and (2k)³ / 3 backward a row.

    Attributes:
        damping: Added to the Hessian's diagonal, as a fraction of its mean; by default 0.1 · min(1, columns /
            positions), at least 1e-4.
        candidates: How many units are added for each that is kept in the end.
    """

    damping: float | None = None
    candidates: float = 2.0

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        super().__post_init__()
        if self.damping is not None:
            check_positive(self.damping, "damping")
        check_positive(self.candidates, "candidates")
        if self.candidates < 1.0:
            raise InputError(f"Cannot use candidates={self.candidates!r}: expected at least 1.")

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the refitted weights of the supports; the forward selection is shared by all sparsities."""
        damped = damp(problem, self.damping)
        unit = self.unit_columns(problem)
        num_units = damped.weight.numel() // unit
        wanted = [num_units - num_units_pruned(num_units, sparsity) for sparsity in problem.sparsities]
        added = [min(num_units, math.ceil(self.candidates * count)) for count in wanted]
        orders = self._removal_orders(damped, unit, wanted, added)
        weights, masks = [], []
        for count, num_added in zip(wanted, added, strict=True):
            pruned = orders[num_added].pruned(num_added - count).repeat_interleave(unit, dim=-1)
            weights.append(damped.restore_dead(refit(damped, ~pruned), pruned))
            masks.append(pruned)
        return LayerSolution(weights=torch.stack(weights), pruned=torch.stack(masks))

    @staticmethod
    def _removal_orders(
        damped: DampedProblem, unit: int, wanted: list[int], added: list[int]
    ) -> dict[int, RemovalOrder]:
        """Return in which order what was added is removed again, by how much was added."""
        everything = torch.ones_like(damped.weight[..., ::unit], dtype=torch.bool)
        forward = [count for count in added if count < everything.numel()]
        additions = addition_order(damped, unit, forward) if forward else None
        orders = {}
        for num_added in set(added):
            kept = everything if additions is None or num_added == everything.numel() else additions.kept(num_added)
            most = max(total - count for count, total in zip(wanted, added, strict=True) if total == num_added)
            orders[num_added] = removal_order(damped, kept, unit, most)
        return orders
