"""Orthogonal least squares: the greedy order in which the rows of a layer gain units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spadelens.errors import SolverError
from spadelens.solvers.base import select_smallest
from spadelens.solvers.greedy import SINGULAR, Elimination, diagonal_blocks
from spadelens.solvers.preparation import DampedProblem
from spadelens.solvers.quadratic import LowRankPlusDiagonal, Quadratic
from spadelens.solvers.supports import columns_of, items_per_batch

_STEPS_PER_CHECK = 8


@dataclass(frozen=True)
class AdditionOrder:
    """The order in which every row of a layer gains units, and how much each lowers the error.

    Attributes:
        ranks: The step at which each unit is added, `[groups, rows, units]`; the number of units if it never is.
        gains: The gain of each step, as a running minimum over the steps, `[groups * rows, steps]`. Since it descends,
            the largest gains, however many, are a prefix of the steps of each row. -inf from the step at which a row
            was dropped.
    """

    ranks: Tensor
    gains: Tensor

    def kept(self, count: int) -> Tensor:
        """Return the units kept after the `count` most useful additions, boolean `[groups, rows, units]`."""
        gains = self.gains[:, : _most_steps(count, self.ranks.shape)]
        num_added = select_smallest(-gains, count).sum(-1)
        return self.ranks < num_added.view(*self.ranks.shape[:2], 1)


def addition_order(damped: DampedProblem, unit: int, counts: Sequence[int]) -> AdditionOrder:
    """Return the order in which the rows gain units, up to each of `counts` units in all rows together.

    Starting from a row of zeros, each step adds the unit B that lowers the error the most, given that all weights on
    the support S are refitted: by gᵦᵀ (H_BB - H_BS H_SS⁻¹ H_SB)⁻¹ gᵦ, with g = (W - W') H. Rows whose further steps
    cannot be among the best of any of `counts` are dropped. Cost: columns · steps² / 2 multiply-adds per row.

    Raises:
        SolverError: The Hessian is singular to working precision.
    """
    groups, rows, columns = damped.weight.shape
    shape = (groups, rows, columns // unit)
    num_steps = _most_steps(max(counts), shape)
    targets = damped.hessian.multiply(damped.weight).flatten(0, 1)
    blocks = diagonal_blocks(damped.hessian, unit)
    gains = targets.new_full((groups * rows, num_steps), -torch.inf)
    ranks = torch.full((groups * rows, shape[2]), shape[2], device=targets.device)
    batch_size = items_per_batch(8 * num_steps * unit * columns, targets.device)
    every_item = torch.arange(groups * rows, device=targets.device)
    for items in every_item.split(batch_size):
        elimination = Elimination(targets[items], blocks[items // rows], None, num_steps)
        lowest = targets.new_full((len(items),), torch.inf)
        for step in range(num_steps):
            best, picked = elimination.scores().sub_(elimination.taken).max(dim=1)
            lowest = torch.minimum(lowest, best)
            if step % _STEPS_PER_CHECK == _STEPS_PER_CHECK - 1:
                alive = (lowest >= _worst_that_counts(gains, counts, shape)).nonzero()[:, 0]
                if len(alive) == 0:
                    break
                if len(alive) < 0.8 * len(items):
                    elimination.keep_items(alive)
                    items, lowest, picked = items[alive], lowest[alive], picked[alive]
            gains[items, step] = lowest
            ranks[items, picked] = step
            elimination.eliminate(picked, _rows(damped.hessian, items // rows, picked, unit))
    if bool(gains.isnan().any()):
        raise SolverError(SINGULAR)
    return AdditionOrder(ranks.view(shape), gains)


def _most_steps(count: int, shape: Sequence[int]) -> int:
    """Return the maximum number of units that a row may gain if all rows gain `count`: twice the average plus 16."""
    groups, rows, num_units = shape
    return min(num_units, 2 * math.ceil(count / (groups * rows)) + 16)


def _worst_that_counts(gains: Tensor, counts: Sequence[int], shape: Sequence[int]) -> float:
    """Return a lower bound, given some of the gains, on the gains that are among the best of any of `counts`."""
    worst = torch.inf
    for count in counts:
        known = gains[:, : _most_steps(count, shape)].flatten()
        worst = min(worst, float(known.kthvalue(known.numel() - count + 1).values))
    return worst


def _rows(hessian: Quadratic, group: Tensor, picked: Tensor, unit: int) -> Tensor:
    """Return the rows of H of one unit of every item, `[items, unit, columns]`."""
    columns = columns_of(picked.unsqueeze(1), unit)
    if isinstance(hessian, LowRankPlusDiagonal) and len(hessian.factor) == 1:  # avoid a copy of the factor per item
        factor = hessian.factor[0]
        rows = (factor.mT[columns.flatten()] @ factor).view(*columns.shape, -1)
        ridge = hessian.ridge[group.unsqueeze(1), columns].unsqueeze(-1)
        rows.scatter_add_(-1, columns.unsqueeze(-1), ridge)
        return rows
    return hessian.rows_of(group, columns)
