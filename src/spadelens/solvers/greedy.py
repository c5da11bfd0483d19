"""The kernel of the greedy solvers: eliminating units from symmetric matrices one after another."""

from __future__ import annotations

import torch
from torch import Tensor

from spadelens.solvers.quadratic import Quadratic, factorize
from spadelens.solvers.supports import columns_of

SINGULAR = "The Hessian is singular to working precision. Raise the damping."


class Elimination:
    """A batch of symmetric matrices M, each with a vector v, from which units are eliminated.

    Eliminating the unit B, with L Lᵀ = M_BB and U = L⁻¹M_B:

        M <- M - UᵀU        v <- v - Uᵀ L⁻¹v_B        score(B) = ||L⁻¹v_B||² = v_Bᵀ M_BB⁻¹ v_B

    The rows U are collected in a factor F, so that M is the initial matrix minus FᵀF; only v and the diagonal blocks of
    M are updated. This turns rank-1 updates of whole matrices into matrix products without changing which units are
    picked. In each step, every item eliminates one unit.

    With M the inverse Hessian of the remaining columns and v the weight, the score is the loss of pruning a unit
    (optimal brain surgeon). With M the Hessian and v the gradient at zero, it is the gain of keeping it (orthogonal
    least squares).

    Attributes:
        values: v, `[items, columns]`.
        blocks: The diagonal blocks of M: `[items, units, unit, unit]`, or `[items, units]` for single weights.
        taken: `[items, units]`, infinite for eliminated units, zero for the others.
    """

    def __init__(self, values: Tensor, blocks: Tensor, prior: Tensor | None, num_steps: int) -> None:
        """Start with nothing eliminated.

        Args:
            values: v; overwritten.
            blocks: As in the attribute; overwritten.
            prior: The initial rows of F, `[items or 1, rows, columns]`, or None.
            num_steps: The number of units for which F gets space.
        """
        self.values, self.blocks = values, blocks
        self.taken = blocks.new_zeros(blocks.shape[:2])
        self._num_units = blocks.shape[1]
        self._unit = values.shape[1] // self._num_units
        self._items = torch.arange(len(values), device=values.device)
        self._num_rows = 0 if prior is None else prior.shape[1]
        self._factor = values.new_empty(len(values), self._num_rows + num_steps * self._unit, values.shape[1])
        if prior is not None:
            self._factor[:, : self._num_rows] = prior

    @property
    def factor(self) -> Tensor:
        """F, `[items, rows so far, columns]`."""
        return self._factor[:, : self._num_rows]

    def scores(self) -> Tensor:
        """Return the score of every unit, a new tensor `[items, units]`; undefined for eliminated units."""
        if self._unit == 1:
            return self.values.square().div_(self.blocks)
        identity = torch.eye(self._unit, dtype=self.blocks.dtype, device=self.blocks.device)
        root = factorize(torch.where((self.taken > 0)[:, :, None, None], identity, self.blocks))
        by_unit = self.values.view(*self.taken.shape, self._unit, 1)
        scaled: Tensor = torch.linalg.solve_triangular(root, by_unit, upper=False)
        return scaled.square().sum((-2, -1))

    def eliminate(self, picked: Tensor, rows: Tensor) -> None:
        """Eliminate one unit of every item.

        Args:
            picked: The unit of each item, `[items]`.
            rows: The rows of that unit in the initial M without `prior`, `[items, unit, columns]`.
        """
        if self._unit == 1:
            self._eliminate_single(picked, rows)
        else:
            self._eliminate_block(picked, rows)
        self.taken.scatter_(1, picked.unsqueeze(1), torch.inf)

    def keep_items(self, kept: Tensor) -> None:
        """Continue with the items at the indices `kept` only."""
        self.values, self.blocks, self.taken = self.values[kept], self.blocks[kept], self.taken[kept]
        factor = self._factor.new_empty(len(kept), *self._factor.shape[1:])
        factor[:, : self._num_rows] = self._factor[kept, : self._num_rows]
        self._factor = factor
        self._items = self._items[: len(kept)]

    def _eliminate_single(self, picked: Tensor, rows: Tensor) -> None:
        at = picked.unsqueeze(1)
        if self._num_rows:
            at_picked = self.factor[self._items, :, picked].unsqueeze(1)
            rows = torch.baddbmm(rows, at_picked, self.factor, alpha=-1)
        inverse_root = self.blocks.gather(1, at).rsqrt_()
        new = self._factor[:, self._num_rows]
        torch.mul(rows.squeeze(1), inverse_root, out=new)
        self.values.addcmul_(new, self.values.gather(1, at) * inverse_root, value=-1)
        self.blocks.addcmul_(new, new, value=-1)
        self.blocks.scatter_(1, at, 1.0)
        self._num_rows += 1

    def _eliminate_block(self, picked: Tensor, rows: Tensor) -> None:
        unit = self._unit
        columns = columns_of(picked.unsqueeze(1), unit)  # [items, unit]
        if self._num_rows:
            at_picked = self.factor.gather(2, columns.unsqueeze(1).expand(-1, self._num_rows, -1))
            rows = torch.baddbmm(rows, at_picked.mT, self.factor, alpha=-1)
        root = factorize(self.blocks[self._items, picked])
        new = torch.linalg.solve_triangular(root, rows, upper=False)
        scaled = torch.linalg.solve_triangular(root, self.values.gather(1, columns).unsqueeze(-1), upper=False)
        self._factor[:, self._num_rows : self._num_rows + unit] = new
        self.values -= (new * scaled).sum(1)
        self.blocks -= block_squares(new, unit)
        self._num_rows += unit


def block_squares(rows: Tensor, unit: int) -> Tensor:
    """Return the diagonal blocks of RᵀR for R `[items, rows, columns]`, in the form that `Elimination` takes."""
    if unit == 1:
        return rows.square().sum(1)
    by_unit = rows.unflatten(2, (-1, unit)).permute(0, 2, 3, 1)  # [items, units, unit, rows]
    squares: Tensor = by_unit @ by_unit.mT
    return squares


def diagonal_blocks(hessian: Quadratic, unit: int) -> Tensor:
    """Return the diagonal blocks of H of every group, in the form that `Elimination` takes."""
    if unit == 1:
        return hessian.diagonal
    groups, columns = hessian.diagonal.shape
    units = torch.arange(columns, device=hessian.diagonal.device).view(-1, unit)
    group = torch.arange(groups, device=units.device).repeat_interleave(len(units))
    blocks: Tensor = hessian.submatrices(group, units.repeat(groups, 1)).unflatten(0, (groups, -1))
    return blocks
