"""Exchanges: a support gains the units that would help most and loses as many of those needed least."""

from __future__ import annotations

import torch
from torch import Tensor

from spadelens.solvers.base import select_smallest
from spadelens.solvers.greedy import Elimination, block_squares, diagonal_blocks
from spadelens.solvers.preparation import DampedProblem, refit
from spadelens.solvers.quadratic import LowRankPlusDiagonal, factorize, padded_submatrices
from spadelens.solvers.removal import removal_order
from spadelens.solvers.supports import batches_of_supports, items_per_batch

_SHARE, _LEAST_ADDED = 0.2, 16
_LEAST_GAIN = 0.05


def exchange_units(damped: DampedProblem, weight: Tensor, kept: Tensor, num_passes: int) -> tuple[Tensor, Tensor]:
    """Return a weight that is no worse and its support, with the same number of units kept in all rows together.

    Each pass adds a fifth as many units as are kept, at least 16: those that would lower the error the most if each
    were added alone. It then removes as many, one after another, and refits. A pass that does not lower the error is
    undone; a pass that lowers it by less than 5% is the last.

    Args:
        damped: The layer.
        weight: The best weight on the support, `[groups, rows, columns]`.
        kept: The support, boolean `[groups, rows, units]`.
        num_passes: The maximum number of passes.

    Raises:
        SolverError: The Hessian of a support is not positive definite.
    """
    unit = weight.shape[-1] // kept.shape[-1]
    num_kept = int(kept.sum())
    num_added = min(max(int(_SHARE * num_kept), _LEAST_ADDED), kept.numel() - num_kept)
    error = _error(damped, weight)
    for _ in range(num_passes if num_added else 0):
        candidates = kept | select_smallest(-addition_gains(damped, weight, kept), num_added)
        other = ~removal_order(damped, candidates, unit, num_added).pruned(num_added)
        other_weight = refit(damped, other.repeat_interleave(unit, dim=-1))
        before, after = error, _error(damped, other_weight)
        if after < before:
            weight, kept, error = other_weight, other, after
        if not after < (1.0 - _LEAST_GAIN) * before:
            break
    return weight, kept


def pass_cost(kept: Tensor, unit: int) -> float:
    """Return approximately how many multiply-adds a pass takes if the Hessian is an explicit matrix."""
    sizes = kept.sum(-1).double() * unit
    return float(((1.5 * ((1 + _SHARE) * sizes) ** 3) + sizes.square() * kept.shape[-1] * unit / 2).sum())


def addition_gains(damped: DampedProblem, weight: Tensor, kept: Tensor) -> Tensor:
    """Return how much adding each unit alone would lower the error, `[groups, rows, units]`; -inf for kept units.

    For a unit B and the gradient g = (W - W') H, this is gᵦᵀ (H_BB - H_BS H_SS⁻¹ H_SB)⁻¹ gᵦ.
    """
    rows, num_units = kept.shape[1:]
    unit = weight.shape[-1] // num_units
    gradient = damped.hessian.multiply(damped.weight - weight).flatten(0, 1)
    supports = kept.flatten(0, 1)
    gains = torch.empty_like(supports, dtype=weight.dtype)

    def batch_size(width: int) -> int:
        return items_per_batch(8 * width * num_units * unit * unit, weight.device)

    for batch in batches_of_supports(supports, batch_size):
        blocks = _blocks_outside(damped, batch.items // rows, *batch.columns(unit), unit)
        elimination = Elimination(gradient[batch.items], blocks, None, 0)
        elimination.taken.masked_fill_(supports[batch.items], torch.inf)
        gains[batch.items] = elimination.scores()
    return gains.masked_fill_(supports, -torch.inf).view_as(kept)


def _blocks_outside(damped: DampedProblem, group: Tensor, columns: Tensor, is_padding: Tensor, unit: int) -> Tensor:
    """Return the diagonal blocks of H - H_:S H_SS⁻¹ H_S: of every item, in the form that `Elimination` takes."""
    hessian = damped.hessian
    if isinstance(hessian, LowRankPlusDiagonal) and columns.shape[1] > hessian.factor.shape[1]:
        factors = hessian.factors(group, columns).masked_fill_(is_padding.unsqueeze(1), 0.0)
        core = (factors / hessian.ridge[group.unsqueeze(1), columns].unsqueeze(1)) @ factors.mT
        core.diagonal(dim1=1, dim2=2).add_(1.0)
        root = factorize(core)
        unexplained = block_squares(torch.linalg.solve_triangular(root, hessian.factor[group], upper=False), unit)
        ridge = hessian.ridge[group]
        return unexplained + (ridge if unit == 1 else torch.diag_embed(ridge.unflatten(1, (-1, unit))))
    systems = padded_submatrices(hessian, group, columns, is_padding)
    across = hessian.rows_of(group, columns).masked_fill_(is_padding.unsqueeze(2), 0.0)
    torch.linalg.solve_triangular(factorize(systems), across, upper=False, out=across)
    return diagonal_blocks(hessian, unit)[group] - block_squares(across, unit)


def _error(damped: DampedProblem, weight: Tensor) -> float:
    """Return the objective tr((W' - W) H (W' - W)ᵀ), summed over groups."""
    difference = weight - damped.weight
    return float((damped.hessian.multiply(difference) * difference).sum())
