"""Exchanges: a support gains the units that would help most, and loses as many that are then needed least."""

from __future__ import annotations

import torch
from torch import Tensor

from spadelens.solvers.base import select_smallest
from spadelens.solvers.greedy import Elimination, block_squares, columns_of, diagonal_blocks
from spadelens.solvers.preparation import DampedProblem, refit
from spadelens.solvers.quadratic import LowRankPlusDiagonal, factorize
from spadelens.solvers.removal import removal_order

_BATCH_BYTES = 64 * 2**20
_SHARE, _LEAST_ADDED = 0.2, 16
_LEAST_GAIN = 0.05


def exchange_units(damped: DampedProblem, weight: Tensor, kept: Tensor, num_passes: int) -> tuple[Tensor, Tensor]:
    """Return a weight and its support that are no worse, with as many units kept in all rows together.

    A pass adds a fifth as many units as there are, at least 16, those that each on its own would lower the error the
    most, removes as many again one after the other, and refits. A pass that does not lower the error is undone; one
    that lowers it by less than 5 % is the last.

    Args:
        damped: The layer.
        weight: The best weight `[groups, rows, columns]` on the support.
        kept: The support, boolean `[groups, rows, units]`.
        num_passes: How many passes there are at most.

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
    """Return about how many multiply-adds a pass takes where the Hessian is formed."""
    sizes = kept.sum(-1).double() * unit
    return float(((1.5 * ((1 + _SHARE) * sizes) ** 3) + sizes.square() * kept.shape[-1] * unit / 2).sum())


def addition_gains(damped: DampedProblem, weight: Tensor, kept: Tensor) -> Tensor:
    """Return by how much adding each unit on its own would lower the error, `[groups, rows, units]`; -inf for the kept.

    For a unit B and the gradient g = (W - W') H that is gᵦᵀ (H_BB - H_BS H_SS⁻¹ H_SB)⁻¹ gᵦ.
    """
    groups, rows, num_units = kept.shape
    unit = weight.shape[-1] // num_units
    gradient = damped.hessian.multiply(damped.weight - weight).flatten(0, 1)
    supports = kept.flatten(0, 1)
    sizes = supports.sum(-1)
    by_size = sizes.argsort(stable=True, descending=True)
    first_units = supports.to(torch.uint8).argsort(dim=-1, stable=True, descending=True)
    most = _BATCH_BYTES if weight.device.type == "cpu" else 16 * _BATCH_BYTES
    gains = torch.empty_like(supports, dtype=weight.dtype)
    first = 0
    while first < groups * rows:
        width = max(1, int(sizes[by_size[first]]))
        items = by_size[first : first + max(1, most // (8 * width * num_units * unit * unit))]
        first += len(items)
        units = first_units[items, :width]
        is_padding = ~supports[items].gather(1, units)
        columns, is_padding = columns_of(units, unit), is_padding.repeat_interleave(unit, dim=1)
        blocks = _blocks_outside(damped, items // rows, columns, is_padding, unit)
        elimination = Elimination(gradient[items], blocks, None, 0)
        elimination.taken.masked_fill_(supports[items], torch.inf)
        gains[items] = elimination.scores()
    return gains.masked_fill_(supports, -torch.inf).view_as(kept)


def _blocks_outside(damped: DampedProblem, group: Tensor, columns: Tensor, is_padding: Tensor, unit: int) -> Tensor:
    """Return the diagonal blocks of H - H_:S H_SS⁻¹ H_S: of every item, as `Elimination` wants them."""
    hessian = damped.hessian
    if isinstance(hessian, LowRankPlusDiagonal) and columns.shape[1] > hessian.factor.shape[1]:
        factors = hessian.factors(group, columns).masked_fill_(is_padding.unsqueeze(1), 0.0)
        core = (factors / hessian.ridge[group.unsqueeze(1), columns].unsqueeze(1)) @ factors.mT
        core.diagonal(dim1=1, dim2=2).add_(1.0)
        root = factorize(core)
        unexplained = block_squares(torch.linalg.solve_triangular(root, hessian.factor[group], upper=False), unit)
        ridge = hessian.ridge[group]
        return unexplained + (ridge if unit == 1 else torch.diag_embed(ridge.unflatten(1, (-1, unit))))
    system = hessian.submatrices(group, columns)
    system.masked_fill_(is_padding.unsqueeze(1) | is_padding.unsqueeze(2), 0.0)
    system.diagonal(dim1=1, dim2=2).masked_fill_(is_padding, 1.0)
    across = hessian.rows_of(group, columns).masked_fill_(is_padding.unsqueeze(2), 0.0)
    torch.linalg.solve_triangular(factorize(system), across, upper=False, out=across)
    return diagonal_blocks(hessian, unit)[group] - block_squares(across, unit)


def _error(damped: DampedProblem, weight: Tensor) -> float:
    """Return what is minimized: tr((W' - W) H (W' - W)ᵀ), summed over groups."""
    difference = weight - damped.weight
    return float((damped.hessian.multiply(difference) * difference).sum())
