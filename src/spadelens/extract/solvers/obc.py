"""OBC: exact greedy pruning with full compensation, SPADE's own solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spadelens.extract.solvers.base import (
    LayerProblem,
    LayerSolution,
    Solver,
    check_positive,
    num_units_pruned,
    select_smallest,
)
from spadelens.extract.solvers.preparation import damp, factorize, refit

_STEPS_PER_BLOCK = 64
_ROWS_BYTES = 256 * 2**20


@final
@dataclass(frozen=True)
class OBC(Solver):
    """Remove one unit at a time from every row, always the one whose loss is smallest after full compensation.

    For a unit B among the remaining columns S of a row, the loss is w_Bᵀ ([H_SS⁻¹]_BB)⁻¹ w_B, and the weights that are
    left move by -[H_SS⁻¹]_:B ([H_SS⁻¹]_BB)⁻¹ w_B. All rows of a layer share one budget: the units of all rows are
    merged by the running maximum of their losses, so that each row gives a prefix of its own order, and what remains
    is refitted exactly. Every sparsity is read off the same order.

    Source: Frantar & Alistarh 2022, 'Optimal Brain Compression'. The removals are those of a pivoted Cholesky
    factorization of H⁻¹, computed here from factor rows that are folded in every 64 steps instead of a rank-1 update
    of every row's inverse at every step. Cost: columns³ / 3 multiply-adds a row; at thousands of columns use another
    solver.

    Attributes:
        damping: Added to the Hessian's diagonal, as a fraction of its mean.
    """

    damping: float = 0.01

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        super().__post_init__()
        check_positive(self.damping, "damping")

    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the refitted weights of the greedy supports."""
        damped = damp(problem, self.damping)
        unit = self.unit_columns(problem)
        groups, rows, columns = damped.weight.shape
        root = damped.inverse_factor()
        inverse = root.transpose(1, 2) @ root
        order, losses = [], []
        chunk = max(1, _ROWS_BYTES // (inverse.element_size() * columns * columns))
        for group in range(groups):
            for start in range(0, rows, chunk):
                row_weights = damped.weight[group, start : start + chunk]
                chunk_order, chunk_losses = _greedy_order(row_weights, inverse[group], unit, problem.name)
                order.append(chunk_order)
                losses.append(chunk_losses)
        merged = torch.cat(losses).cummax(dim=-1).values  # [groups * rows, units], ascending in each row
        ranks = torch.cat(order).argsort(dim=-1)  # the step at which a row removes each of its units
        weights, masks = [], []
        for sparsity in problem.sparsities:
            count = num_units_pruned(merged.numel(), sparsity)
            num_removed = select_smallest(merged, count).sum(-1, keepdim=True)
            pruned = (ranks < num_removed).repeat_interleave(unit, dim=-1).view(groups, rows, columns)
            weights.append(damped.restore_dead(refit(damped, ~pruned), pruned))
            masks.append(pruned)
        return LayerSolution(weights=torch.stack(weights), pruned=torch.stack(masks))


def _greedy_order(weight: Tensor, inverse: Tensor, unit: int, name: str) -> tuple[Tensor, Tensor]:
    """Return the order in which each row loses its units, and the loss of each removal, both `[rows, units]`.

    Args:
        weight: `[rows, columns]`.
        inverse: The inverse Hessian `[columns, columns]`, shared by the rows.
        unit: Columns per unit.
        name: The layer, for messages.
    """
    rows, columns = weight.shape
    num_units = columns // unit
    units_left = torch.arange(num_units, device=weight.device).expand(rows, -1)
    inverses = inverse.expand(rows, -1, -1)
    orders, losses = [], []
    for start in range(0, num_units, _STEPS_PER_BLOCK):
        num_steps = min(_STEPS_PER_BLOCK, num_units - start)
        removed, block_losses, weight, factor = _remove_units(weight, inverses, unit, num_steps, name)
        orders.append(units_left.gather(1, removed))
        losses.append(block_losses)
        if start + num_steps == num_units:
            break
        is_left = torch.ones_like(units_left, dtype=torch.bool).scatter(1, removed, False)
        units_left = units_left[is_left].view(rows, -1)
        left = is_left.repeat_interleave(unit, dim=-1).nonzero()[:, 1].view(rows, -1)
        weight = weight.gather(1, left)
        factor = factor.gather(2, left[:, None, :].expand(-1, factor.shape[1], -1))
        row = torch.arange(rows, device=weight.device)[:, None, None]
        inverses = inverses[row, left[:, :, None], left[:, None, :]] - factor.transpose(1, 2) @ factor
    return torch.cat(orders, dim=1), torch.cat(losses, dim=1)


def _remove_units(
    weight: Tensor, inverses: Tensor, unit: int, num_steps: int, name: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Remove `num_steps` units from every row.

    Returns:
        The units removed and their losses `[rows, steps]`, the compensated weight `[rows, columns]` and the factor F
        `[rows, steps * unit, columns]`: the inverse of what remains is `inverses - Fᵀ F`.
    """
    rows, columns = weight.shape
    num_units = columns // unit
    weight = weight.clone()
    factor = weight.new_zeros(rows, num_steps * unit, columns)
    blocks = inverses.unflatten(1, (num_units, unit)).unflatten(3, (num_units, unit))
    blocks = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).clone()  # [rows, units, unit, unit]
    is_removed = torch.zeros(rows, num_units, dtype=torch.bool, device=weight.device)
    every_row = torch.arange(rows, device=weight.device)
    within = torch.arange(unit, device=weight.device)
    removed, losses = [], []
    for step in range(num_steps):
        scores = _removal_losses(weight.unflatten(1, (num_units, unit)), blocks, is_removed, name)
        loss, chosen = scores.min(dim=1)
        removed.append(chosen)
        losses.append(loss)
        picked = chosen[:, None] * unit + within  # [rows, unit]
        done = factor[:, : step * unit]
        done_at_picked = done.gather(2, picked[:, None, :].expand(-1, step * unit, -1))
        pivot_rows = inverses[every_row[:, None], picked] - done_at_picked.transpose(1, 2) @ done
        root = factorize(blocks[every_row, chosen], name)
        new_rows = torch.linalg.solve_triangular(root, pivot_rows, upper=False)  # [rows, unit, columns]
        scaled = torch.linalg.solve_triangular(root, weight.gather(1, picked).unsqueeze(-1), upper=False)
        weight -= (new_rows * scaled).sum(1)
        factor[:, step * unit : (step + 1) * unit] = new_rows
        by_unit = new_rows.unflatten(2, (num_units, unit))
        blocks -= torch.einsum("rsua,rsub->ruab", by_unit, by_unit)
        is_removed[every_row, chosen] = True
    return torch.stack(removed, dim=1), torch.stack(losses, dim=1), weight, factor


def _removal_losses(weight: Tensor, blocks: Tensor, is_removed: Tensor, name: str) -> Tensor:
    """Return the loss of removing each unit `[rows, units]`, infinite where it has been removed already."""
    unit = weight.shape[-1]
    if unit == 1:
        losses = weight.squeeze(-1).square() / blocks[:, :, 0, 0]
    else:
        identity = torch.eye(unit, dtype=blocks.dtype, device=blocks.device)
        root = factorize(torch.where(is_removed[:, :, None, None], identity, blocks), name)
        losses = torch.linalg.solve_triangular(root, weight.unsqueeze(-1), upper=False).squeeze(-1).square().sum(-1)
    return torch.where(is_removed, torch.inf, losses)
