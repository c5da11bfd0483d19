"""The inverse Hessian on the shrinking supports of a batch of rows, explicit or through few positions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from spadelens.solvers.greedy import block_squares
from spadelens.solvers.preparation import DampedProblem
from spadelens.solvers.quadratic import Explicit, LowRankPlusDiagonal, Quadratic, factorize, padded_submatrices
from spadelens.solvers.supports import columns_of, items_per_batch


@dataclass(frozen=True)
class Move:
    """How the remaining units of `[items, units]` move to the front: those at the end fill the gaps left by removals.

    Attributes:
        targets: The new index of each of the last units, `[items, steps]`. Removed units among them stay and are cut
            off.
        num_left: The number of units that remain.
    """

    targets: Tensor
    num_left: int

    @classmethod
    def of(cls, taken: Tensor, removed: Tensor) -> Move:
        """Return the move after removing the units `removed` `[items, steps]`, which are above zero in `taken`."""
        num_left = taken.shape[1] - removed.shape[1]
        is_gone = taken[:, num_left:] > 0
        gaps = removed.sort(dim=1).values  # those at the front come first
        survivor = (~is_gone).cumsum(1).sub_(1).clamp_min_(0)
        own = torch.arange(num_left, taken.shape[1], device=taken.device)
        return cls(torch.where(is_gone, own, gaps.gather(1, survivor)), num_left)

    def apply(self, values: Tensor, unit: int = 1) -> Tensor:
        """Return `[items, ..., units * unit]` with its last axis moved and cut; `values` is overwritten."""
        cut = self.num_left * unit
        targets = columns_of(self.targets, unit).unflatten(0, (-1, *([1] * (values.dim() - 2))))
        targets = targets.expand(-1, *values.shape[1:-1], -1)
        return values.scatter_(-1, targets, values[..., cut:].clone())[..., :cut]


class Inverses(ABC):
    """H_SS⁻¹ of every item, `[items, columns, columns]`."""

    @property
    @abstractmethod
    def prior(self) -> Tensor | None:
        """F `[items or 1, rows, columns]`, or None: the inverse is the matrix whose rows `rows` returns, minus FᵀF."""

    @abstractmethod
    def blocks(self) -> Tensor:
        """Return the diagonal blocks, a new tensor in the form that `Elimination` takes."""

    @abstractmethod
    def rows(self, units: Tensor) -> Tensor:
        """Return the rows of one unit of every item, before `prior` is subtracted, `[items, unit, columns]`."""

    @abstractmethod
    def multiply(self, vectors: Tensor) -> Tensor:
        """Return the inverses times `[items, columns]`."""

    @abstractmethod
    def shrink(self, items: Tensor, move: Move, factor: Tensor) -> Inverses:
        """Return the inverses on the remaining units; `self` may be overwritten.

        Args:
            items: The indices of the items to continue with.
            move: How their units move.
            factor: F of their elimination; overwritten.
        """


@final
class ExplicitInverses(Inverses):
    """H_SS⁻¹ as explicit matrices; memory: columns² numbers per item.

    To shrink, the last remaining units are moved into the gaps, which copies far less than gathering all of them.
    """

    def __init__(self, matrices: Tensor, unit: int) -> None:
        """Take the inverses `[items, columns, columns]`, which are overwritten unless they are expanded views."""
        self._matrices, self._unit = matrices, unit
        self._items = torch.arange(len(matrices), device=matrices.device)

    @property
    def prior(self) -> None:
        """None: the matrices are complete."""
        return

    def blocks(self) -> Tensor:
        """Return the diagonal blocks."""
        if self._unit == 1:
            return self._matrices.diagonal(dim1=1, dim2=2).clone()
        num_units = self._matrices.shape[1] // self._unit
        by_unit = self._matrices.unflatten(1, (num_units, self._unit)).unflatten(3, (num_units, self._unit))
        blocks: Tensor = by_unit.diagonal(dim1=1, dim2=3).movedim(-1, 1).clone()
        return blocks

    def rows(self, units: Tensor) -> Tensor:
        """Return rows of the inverses."""
        if self._unit == 1:
            return self._matrices[self._items, units].unsqueeze(1)
        return self._matrices[self._items.unsqueeze(1), columns_of(units.unsqueeze(1), self._unit)]

    def multiply(self, vectors: Tensor) -> Tensor:
        """Return the inverses times `[items, columns]`."""
        return (self._matrices @ vectors.unsqueeze(-1)).squeeze(-1)

    def shrink(self, items: Tensor, move: Move, factor: Tensor) -> ExplicitInverses:
        """Move the remaining units and subtract FᵀF."""
        factor = move.apply(factor, self._unit)
        cut = factor.shape[-1]
        matrices = self._matrices
        if matrices.stride(0) == 0:  # all items share one matrix
            matrices = matrices[: len(items)].contiguous()
        elif len(items) < len(matrices):
            matrices = matrices[items]
        rows = torch.arange(len(items), device=items.device).unsqueeze(1)
        matrices[rows, columns_of(move.targets, self._unit)] = matrices[:, cut:].clone()
        matrices = move.apply(matrices[:, :cut], self._unit)
        return ExplicitInverses(matrices.baddbmm_(factor.mT, factor, alpha=-1), self._unit)


@final
class LowRankInverses(Inverses):
    """The inverse of H_SS = A_SᵀA_S + D for few positions: D⁻¹ - VᵀV with V = L⁻¹A_S D⁻¹, L Lᵀ = I + A_S D⁻¹A_Sᵀ.

    V is recomputed whenever the supports shrink. Memory: 3 · positions · columns numbers per item. Once no more columns
    remain than there are positions, the inverses become explicit.
    """

    def __init__(self, factors: Tensor, ridge: Tensor, unit: int) -> None:
        """Start from A_Sᵀ `[items, columns, positions]` and the diagonal of D `[items, columns]`."""
        self._factors, self._ridge, self._unit = factors, ridge, unit
        over_ridge = (factors / ridge.unsqueeze(-1)).mT
        core = over_ridge @ factors
        core.diagonal(dim1=1, dim2=2).add_(1.0)
        self._prior: Tensor = torch.linalg.solve_triangular(factorize(core), over_ridge, upper=False)

    @property
    def prior(self) -> Tensor:
        """V."""
        return self._prior

    def blocks(self) -> Tensor:
        """Return the diagonal blocks of D⁻¹ - VᵀV."""
        inverse_ridge = 1.0 / self._ridge
        if self._unit > 1:
            inverse_ridge = torch.diag_embed(inverse_ridge.unflatten(1, (-1, self._unit)))
        return inverse_ridge - block_squares(self._prior, self._unit)

    def rows(self, units: Tensor) -> Tensor:
        """Return rows of D⁻¹."""
        at = columns_of(units.unsqueeze(1), self._unit)
        values = self._ridge.gather(1, at).reciprocal_().unsqueeze(-1)
        return values.new_zeros(*at.shape, self._ridge.shape[1]).scatter_(2, at.unsqueeze(-1), values)

    def multiply(self, vectors: Tensor) -> Tensor:
        """Return D⁻¹b - Vᵀ(V b)."""
        return vectors / self._ridge - (self._prior.mT @ (self._prior @ vectors.unsqueeze(-1))).squeeze(-1)

    def shrink(self, items: Tensor, move: Move, factor: Tensor) -> Inverses:
        """Gather A_S and D of the remaining units, and recompute V."""
        columns = torch.arange(factor.shape[2], device=items.device).repeat(len(items), 1)
        left = move.apply(columns, self._unit)
        factors = self._factors[items.unsqueeze(1), left]
        ridge = self._ridge[items.unsqueeze(1), left]
        if left.shape[1] > factors.shape[2]:
            return LowRankInverses(factors, ridge, self._unit)
        systems = factors @ factors.mT
        systems.diagonal(dim1=1, dim2=2).add_(ridge)
        return ExplicitInverses(torch.cholesky_inverse(factorize(systems)), self._unit)


@dataclass(frozen=True)
class Inverter:
    """Inverts the Hessian on the supports of rows.

    Attributes:
        hessian: The Hessian of the layer.
        unit: The number of columns per unit.
        targets: W H `[groups * rows, columns]`: H_SS⁻¹ times its part on a support S is the best weight on S.
        of_everything: H⁻¹ of every group if the supports hold all columns in order and H is explicit, else None.
    """

    hessian: Quadratic
    unit: int
    targets: Tensor
    of_everything: Tensor | None

    @classmethod
    def of(cls, damped: DampedProblem, unit: int, has_all: bool) -> Inverter:
        """Return the inverter for a layer; `has_all` promises that every support holds all columns in order."""
        inverse = None
        if has_all and isinstance(damped.hessian, Explicit):
            inverse = torch.cholesky_inverse(factorize(damped.hessian.matrix))
        targets = damped.hessian.multiply(damped.weight).flatten(0, 1)
        return cls(damped.hessian, unit, targets, inverse)

    def batch_size(self, columns: int) -> int:
        """Return how many rows whose supports have `columns` columns to invert at a time."""
        height = columns
        if isinstance(self.hessian, LowRankPlusDiagonal):
            height = min(height, 3 * self.hessian.factor.shape[1])
        return items_per_batch(8 * columns * height, self.targets.device)

    def invert(self, items: Tensor, columns: Tensor, is_padding: Tensor) -> tuple[Inverses, Tensor]:
        """Return H_SS⁻¹ and the best weight of the supports of a batch, `[items, columns]`.

        Args:
            items: The indices of the rows among all rows of all groups.
            columns: The supports, `[items, columns]`.
            is_padding: Which of these columns are padding; they get rows of the identity matrix.
        """
        group = items // (len(self.targets) // len(self.hessian.diagonal))
        inverses: Inverses
        if self.of_everything is not None:
            is_shared = bool((group == group[0]).all())
            matrices = (
                self.of_everything[group[:1]].expand(len(group), -1, -1) if is_shared else self.of_everything[group]
            )
            inverses = ExplicitInverses(matrices, self.unit)
        elif isinstance(self.hessian, LowRankPlusDiagonal) and columns.shape[1] > self.hessian.factor.shape[1]:
            factors = self.hessian.factor.mT[group.unsqueeze(1), columns].masked_fill_(is_padding.unsqueeze(2), 0.0)
            ridge = self.hessian.ridge[group.unsqueeze(1), columns].masked_fill_(is_padding, 1.0)
            inverses = LowRankInverses(factors, ridge, self.unit)
        else:
            systems = padded_submatrices(self.hessian, group, columns, is_padding)
            inverses = ExplicitInverses(torch.cholesky_inverse(factorize(systems)), self.unit)
        return inverses, inverses.multiply(self.targets[items].gather(1, columns).masked_fill_(is_padding, 0.0))
