"""SparseGPT: one sweep over the columns, each pruned weight made up for by the columns to its right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spadelens.errors import InputError
from spadelens.extract.solvers.base import (
    LayerProblem,
    LayerSolution,
    Solver,
    check_positive,
    num_units_pruned,
    select_smallest,
)
from spadelens.extract.solvers.preparation import DampedProblem, damp


@final
@dataclass(frozen=True)
class SparseGPT(Solver):
    """Sweep over blocks of columns; in each, prune the cheapest units, then compensate to the right.

    With H⁻¹ = UᵀU (U upper triangular), the cost of a unit B once all columns before it are fixed is
    ||U_BB⁻ᵀ w_B||², which is (w_j / U_jj)² for a single weight. Every block of columns is pruned to the same sparsity;
    the budget of a block is shared by all rows and groups.

    Source: Frantar & Alistarh 2023, 'SparseGPT', used by SPADE's authors as FastSPADE. Cost: columns³ for the
    factorization and rows · columns² for the sweep.

    Attributes:
        damping: Added to the Hessian's diagonal, as a fraction of its mean.
        block_size: Columns that share one budget; rounded up to whole units.
    """

    damping: float = 0.01
    block_size: int = 128

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        super().__post_init__()
        check_positive(self.damping, "damping")
        check_positive(self.block_size, "block_size")
        if not isinstance(self.block_size, int):
            raise InputError(f"Cannot use block_size={self.block_size!r}: expected a whole number.")

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the swept weights; the factorization is shared by all sparsities."""
        damped = damp(problem, self.damping)
        factor = damped.inverse_factor()
        unit = self.unit_columns(problem)
        weights, masks = [], []
        for sparsity in problem.sparsities:
            weight, pruned = self._sweep(damped, factor, unit, sparsity)
            weights.append(damped.restore_dead(weight, pruned))
            masks.append(pruned)
        return LayerSolution(weights=torch.stack(weights), pruned=torch.stack(masks))

    def _sweep(self, damped: DampedProblem, factor: Tensor, unit: int, sparsity: float) -> tuple[Tensor, Tensor]:
        weight = damped.weight.clone()
        pruned = torch.zeros_like(weight, dtype=torch.bool)
        columns = weight.shape[2]
        total = num_units_pruned(weight.numel() // unit, sparsity)
        width = unit * -(-self.block_size // unit)
        num_done = 0
        for start in range(0, columns, width):
            stop = min(start + width, columns)
            num_due = total * stop // columns
            scores = _unit_costs(weight[:, :, start:stop], factor[:, start:stop, start:stop], unit)
            chosen = select_smallest(scores, num_due - num_done).repeat_interleave(unit, dim=-1)
            num_done = num_due
            pruned[:, :, start:stop] = chosen
            errors = torch.zeros_like(weight[:, :, start:stop])
            for column in range(start, stop):
                error = weight[:, :, column] / factor[:, column, column].unsqueeze(-1)
                error = error.masked_fill(~chosen[:, :, column - start], 0.0)
                weight[:, :, column:stop] -= error.unsqueeze(-1) * factor[:, None, column, column:stop]
                errors[:, :, column - start] = error
            weight[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
        return weight, pruned


def _unit_costs(weight: Tensor, factor: Tensor, unit: int) -> Tensor:
    """Return the cost of pruning each unit, `[groups, rows, units]`, given the block's diagonal block of U."""
    if unit == 1:
        return (weight / factor.diagonal(dim1=1, dim2=2).unsqueeze(1)).square()
    by_unit = weight.unflatten(-1, (-1, unit))  # [groups, rows, units, unit]
    num_units = by_unit.shape[2]
    blocks = factor.unflatten(1, (num_units, unit)).unflatten(3, (num_units, unit))
    diagonal_blocks = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # [groups, units, unit, unit]
    scaled: Tensor = torch.linalg.solve_triangular(
        diagonal_blocks.transpose(-1, -2), by_unit.permute(0, 2, 3, 1), upper=False
    )  # [groups, units, unit, rows]
    return scaled.square().sum(2).transpose(1, 2)
