"""Exact Optimal Brain Surgeon: the greedy order in which the rows of a layer lose their units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spadelens.errors import SolverError
from spadelens.solvers.base import select_smallest
from spadelens.solvers.greedy import SINGULAR, Elimination
from spadelens.solvers.inverses import Inverses, Inverter, Move
from spadelens.solvers.preparation import DampedProblem
from spadelens.solvers.supports import batches_of_supports

_STEPS_PER_BLOCK = 32
_PADDING = 1e100  # its square is finite: padding is removed last and affects nothing else


@dataclass(frozen=True)
class RemovalOrder:
    """The order in which every row of a layer loses its units, and how much each removal costs.

    Attributes:
        ranks: The step at which each unit is removed, `[groups, rows, units]`; -1 if it was absent from the start, the
            number of units if it is never removed.
        losses: The loss of each step, as a running maximum over the steps, `[groups * rows, steps]`. Since it ascends,
            the smallest losses, however many, are a prefix of the steps of each row. Infinite from the step at which a
            row was dropped, at least 1e100 once it is empty.
    """

    ranks: Tensor
    losses: Tensor

    def pruned(self, count: int) -> Tensor:
        """Return the units pruned after the `count` cheapest removals, boolean `[groups, rows, units]`."""
        num_removed = select_smallest(self.losses, count).sum(-1)
        return self.ranks < num_removed.view(*self.ranks.shape[:2], 1)


def removal_order(damped: DampedProblem, kept: Tensor, unit: int, count: int) -> RemovalOrder:
    """Return the order in which the rows lose the units `kept`, up to `count` units in all rows together.

    For a unit B among the remaining columns S of a row, with w the best weight on S, the loss of removing B is
    w_Bᵀ ([H_SS⁻¹]_BB)⁻¹ w_B: the increase in error after the other weights have compensated for it. Each step removes
    the unit with the smallest loss. Rows whose further steps cannot be among the `count` cheapest are dropped.

    Args:
        damped: The layer.
        kept: The units to start from, boolean `[groups, rows, units]`.
        unit: The number of columns per unit.
        count: The maximum number of removals that the caller will ask for.

    Raises:
        SolverError: The Hessian of a support is not positive definite.
    """
    groups, rows, num_units = kept.shape
    supports = kept.flatten(0, 1)
    ranks = torch.full_like(supports, num_units, dtype=torch.int64)
    losses = damped.weight.new_full((groups * rows, max(1, int(supports.sum(-1).max()))), torch.inf)
    progress = _Progress(ranks, losses, count)
    inverter = Inverter.of(damped, unit, has_all=bool(kept.all()))
    for batch in batches_of_supports(supports, lambda width: inverter.batch_size(width * unit)) if count else ():
        columns, is_padding = batch.columns(unit)
        inverses, values = inverter.invert(batch.items, columns, is_padding)
        _remove(progress, inverses, values.masked_fill(is_padding, _PADDING), batch.items, batch.units)
    return RemovalOrder(ranks.masked_fill(~supports, -1).view(kept.shape), losses)


@dataclass(frozen=True)
class _Progress:
    """A `RemovalOrder` in the making: the same tensors, except that padding has ranks too, filled in step by step."""

    ranks: Tensor
    losses: Tensor
    count: int

    def record(self, items: Tensor, start: int, removed: Tensor, lost: Tensor) -> None:
        """Record the units that `items` lose from step `start` on, and their losses, both `[items, steps]`."""
        steps = torch.arange(start, start + removed.shape[1], device=removed.device)
        self.ranks[items] = self.ranks[items].scatter(1, removed, steps.expand_as(removed))
        highest = lost.cummax(dim=1).values
        if start:
            highest = torch.maximum(highest, self.losses[items, start - 1 : start])
        self.losses[items, start : start + removed.shape[1]] = highest

    def can_go_on(self, items: Tensor, num_steps: int) -> Tensor:
        """Return the indices of `items` whose steps after `num_steps` may still be among the `count` cheapest."""
        bound = self.losses.flatten().kthvalue(self.count).values
        return (self.losses[items, num_steps - 1] <= bound).nonzero()[:, 0]


def _remove(progress: _Progress, inverses: Inverses, values: Tensor, items: Tensor, units: Tensor) -> None:
    """Remove the units of a batch of rows, as far as the order needs them.

    Args:
        progress: Records the order.
        inverses: H_SS⁻¹ of the supports; may be overwritten.
        values: The best weight on the supports, `[items, columns]`; overwritten.
        items: The indices of the rows.
        units: The supports, `[items, units]`.
    """
    num_steps = units.shape[1]
    unit = values.shape[1] // num_steps
    for start in range(0, num_steps, _STEPS_PER_BLOCK):
        stop = min(start + _STEPS_PER_BLOCK, num_steps)
        elimination = Elimination(values, inverses.blocks(), inverses.prior, stop - start)
        picks, losses = [], []
        for _ in range(start, stop):
            loss, picked = elimination.scores().add_(elimination.taken).min(dim=1)
            elimination.eliminate(picked, inverses.rows(picked))
            picks.append(picked)
            losses.append(loss)
        removed, lost = torch.stack(picks, dim=1), torch.stack(losses, dim=1)
        if not bool(torch.isfinite(lost).all()):
            raise SolverError(SINGULAR)
        progress.record(items, start, units.gather(1, removed), lost)
        alive = progress.can_go_on(items, stop)
        if stop == num_steps or len(alive) == 0:
            return
        if len(alive) < len(items):
            elimination.keep_items(alive)
        move = Move.of(elimination.taken, removed[alive])
        items, units, values = items[alive], move.apply(units[alive]), move.apply(elimination.values, unit)
        inverses = inverses.shrink(alive, move, elimination.factor)
