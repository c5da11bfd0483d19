"""SparseGPT: one sweep over the columns; those to the right compensate for each pruned weight."""

from __future__ import annotations

from dataclasses import dataclass
from operator import sub
from typing import final

import torch
from torch import Tensor

from spadelens.errors import InputError
from spadelens.solvers.base import (
    LayerProblem,
    LayerSolution,
    Solver,
    check_positive,
    num_units_pruned,
    select_smallest,
)
from spadelens.solvers.preparation import damp


@final
@dataclass(frozen=True)
class SparseGPT(Solver):
    """Sweep over blocks of columns, prune the cheapest units of each block, and compensate in the columns to the right.

    With H⁻¹ = UᵀU (U upper triangular), the cost of a unit B, given that all columns before it are fixed, is
    ||U_BB⁻ᵀ w_B||², or (w_j / U_jj)² for a single weight. Every block of columns is pruned to the same sparsity; within
    a block, all rows and groups share one budget.

    Source: Frantar & Alistarh 2023, 'SparseGPT', used by SPADE's authors as FastSPADE. Cost: columns³ for the
    factorization and rows · columns² for the sweep.

    Attributes:
        damping: Added to the Hessian's diagonal, as a fraction of its mean.
        block_size: Columns that share one budget; rounded up to whole units.
    """

    damping: float = 0.01
    block_size: int = 128

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        super().__post_init__()
        check_positive(self.damping, "damping")
        check_positive(self.block_size, "block_size")
        if not isinstance(self.block_size, int):
            raise InputError(f"Cannot use block_size={self.block_size!r}: expected an integer.")

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the weights after the sweep; all sparsities share one factorization."""
        damped = damp(problem, self.damping)
        dtype = torch.promote_types(problem.weight.dtype, torch.float32)
        unit = self.unit_columns(problem)
        columns = damped.weight.shape[-1]
        totals = [num_units_pruned(damped.weight.numel() // unit, sparsity) for sparsity in problem.sparsities]
        weights = damped.weight.to(dtype).repeat(len(totals), 1, 1, 1)  # [sparsities, groups, rows, columns]
        pruned = torch.zeros_like(weights, dtype=torch.bool)
        num_done = [0] * len(totals)
        for start, stop, rows_of_factor in damped.hessian.sweep(unit * -(-self.block_size // unit)):
            factor = rows_of_factor.to(dtype)
            num_due = [total * stop // columns for total in totals]
            costs = _unit_costs(weights[..., start:stop], factor[:, :, : stop - start], unit)
            chosen = torch.stack(
                [select_smallest(*of_one) for of_one in zip(costs, map(sub, num_due, num_done), strict=True)]
            ).repeat_interleave(unit, dim=-1)
            num_done = num_due
            pruned[..., start:stop] = chosen
            _compensate(weights[..., start:], chosen, factor)
        solved = [damped.restore_dead(*of_one) for of_one in zip(weights, pruned, strict=True)]
        return LayerSolution(weights=torch.stack(solved), pruned=pruned)


def _compensate(weights: Tensor, chosen: Tensor, factor: Tensor) -> None:
    """Set the weights `chosen` to zero and compensate for them in the columns to the right, in place.

    Args:
        weights: The columns from the start of the block to the end, `[sparsities, groups, rows, columns]`.
        chosen: The weights of the block to prune, boolean `[sparsities, groups, rows, block]`.
        factor: The rows of U that belong to the block, `[groups, block, columns]`.
    """
    width = chosen.shape[-1]
    # The loop goes column by column, so the block is copied with columns as its first axis.
    block = weights[..., :width].movedim(-1, 0).contiguous()  # [block, sparsities, groups, rows]
    is_chosen = chosen.movedim(-1, 0).contiguous()
    errors = torch.zeros_like(block)
    for column in range(width):
        pivot = factor[:, column, column].view(-1, 1)
        errors[column] = (block[column] / pivot).masked_fill_(~is_chosen[column], 0.0)
        right = factor[:, column, column:width].T[:, None, :, None]  # [columns, 1, groups, 1]
        block[column:].addcmul_(right, errors[column], value=-1.0)
    weights[..., :width] = block.movedim(0, -1)
    weights[..., width:] -= errors.movedim(0, -1) @ factor[..., width:]


def _unit_costs(weight: Tensor, factor: Tensor, unit: int) -> Tensor:
    """Return the cost of pruning each unit, `[..., groups, rows, units]`, given the block's diagonal block of U."""
    if unit == 1:
        return (weight / factor.diagonal(dim1=1, dim2=2).unsqueeze(1)).square()
    by_unit = weight.unflatten(-1, (-1, unit))  # [..., groups, rows, units, unit]
    num_units = by_unit.shape[-2]
    blocks = factor.unflatten(1, (num_units, unit)).unflatten(3, (num_units, unit))
    diagonal_blocks = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1)  # [groups, units, unit, unit]
    scaled: Tensor = torch.linalg.solve_triangular(
        diagonal_blocks.mT, by_unit.movedim(-3, -1), upper=False
    )  # [..., groups, units, unit, rows]
    return scaled.square().sum(-2).mT
