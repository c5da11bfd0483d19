"""OLS: forward selection of more weights than needed, then backward elimination."""

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
    """Start from empty rows, add the most useful unit until there are twice as many as needed, then remove the excess.

    With S the support of a row and g = (W - W') H its gradient, adding the unit B lowers the error by

        gain(B) = gᵦᵀ (H_BB - H_BS H_SS⁻¹ H_SB)⁻¹ gᵦ

    and removing it again costs w_Bᵀ ([H_SS⁻¹]_BB)⁻¹ w_B; all other weights on S are refitted each time. In both
    directions, all rows of the layer share one budget: additions are merged by the running minimum of the gains,
    removals by the running maximum of the losses. The remaining weights are refitted exactly.

    Source: Chen, Billings & Luo 1989, 'Orthogonal least squares methods', for the forward selection. That adding
    twice the number and going back pays was found by measurement (docs/benchmarks.md). The solver is meant for
    sparsities of 0.95 and above; where twice the number is all units, it is OBC. Cost per row that keeps k weights:
    columns · (2k)² / 2 multiply-adds forward and (2k)³ / 3 backward.

    Attributes:
        damping: Added to the Hessian's diagonal, as a fraction of its mean. The default is
            0.1 · min(1, columns / positions), but at least 1e-4.
        candidates: The number of units to add for each unit that is finally kept.
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
        """Return number of units added -> the order in which they are removed again."""
        everything = torch.ones_like(damped.weight[..., ::unit], dtype=torch.bool)
        forward = [count for count in added if count < everything.numel()]
        additions = addition_order(damped, unit, forward) if forward else None
        orders = {}
        for num_added in set(added):
            kept = everything if additions is None or num_added == everything.numel() else additions.kept(num_added)
            most = max(total - count for count, total in zip(wanted, added, strict=True) if total == num_added)
            orders[num_added] = removal_order(damped, kept, unit, most)
        return orders
