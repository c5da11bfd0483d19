"""The positive definite matrix H of a layer's objective tr((W' - W) H (W' - W)ᵀ), explicit or as a factor.

For a layer that sees fewer positions than it has columns, H = AᵀA + diag(r) is represented by its factor A and r. No
matrix of size columns² is allocated, and the matrices to invert have the size positions².
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from spadelens.errors import SolverError

AddProduct: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Called as add(base, weight, out) with tensors `[sparsities, groups, rows, columns]`: writes `base` plus the product
with `weight` to `out` and returns it. Writing to `out` saves the time of an allocation and of a pass over memory."""


class Quadratic(ABC):
    """The positive definite matrices H of all groups of a layer, `[groups, columns, columns]`."""

    @property
    @abstractmethod
    def diagonal(self) -> Tensor:
        """The diagonal of H, `[groups, columns]`."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Quadratic:
        """Return H in another dtype."""

    @abstractmethod
    def select(self, groups: Tensor) -> Quadratic:
        """Return H of the groups at these indices."""

    @abstractmethod
    def multiply(self, weight: Tensor) -> Tensor:
        """Return `weight @ H` for a weight `[groups, rows, columns]`."""

    @abstractmethod
    def scaled(self, scale: Tensor) -> Quadratic:
        """Return diag(scale) H diag(scale) for a scale `[groups, columns]`."""

    @abstractmethod
    def shifted_inverse(self, shift: float) -> AddProduct:
        """Return a function that adds the product of a weight and (H + shift I)⁻¹ to a tensor.

        Raises:
            SolverError: The shifted matrix is not positive definite.
        """

    @abstractmethod
    def sweep(self, width: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the rows of the upper triangular U with H⁻¹ = UᵀU from top to bottom, at most `width` at a time.

        Yields:
            (start, stop, rows), where rows is U[:, start:stop, start:], `[groups, stop - start, columns - start]`.
        """

    @abstractmethod
    def submatrices(self, group: Tensor, chosen: Tensor) -> Tensor:
        """Return H_SS of some supports, `[batch, width, width]`.

        Args:
            group: The group of each support, `[batch]`.
            chosen: The columns of each support, `[batch, width]`.
        """

    @abstractmethod
    def rows_of(self, group: Tensor, chosen: Tensor) -> Tensor:
        """Return the rows `chosen` of H, `[batch, width, columns]`; arguments as in `submatrices`."""


@final
@dataclass(frozen=True)
class Explicit(Quadratic):
    """H as an explicit matrix."""

    matrix: Tensor

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of H."""
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    def to(self, dtype: torch.dtype) -> Explicit:
        """Return H in another dtype."""
        return Explicit(self.matrix.to(dtype))

    def select(self, groups: Tensor) -> Explicit:
        """Return H of some groups."""
        return Explicit(self.matrix[groups])

    def multiply(self, weight: Tensor) -> Tensor:
        """Return `weight @ H`."""
        return weight @ self.matrix

    def scaled(self, scale: Tensor) -> Explicit:
        """Return diag(scale) H diag(scale)."""
        return Explicit(self.matrix * scale.unsqueeze(-1) * scale.unsqueeze(-2))

    def shifted_inverse(self, shift: float) -> AddProduct:
        """Return multiplication by the explicit inverse, computed by Cholesky in columns³ multiply-adds."""
        shifted = self.matrix.clone()
        shifted.diagonal(dim1=-2, dim2=-1).add_(shift)
        root = inverse_root(factorize(shifted))
        inverse = root.mT @ root

        def add_product(base: Tensor, weight: Tensor, out: Tensor) -> Tensor:
            for base_of_one, weight_of_one, out_of_one in zip(base, weight, out, strict=True):
                torch.baddbmm(base_of_one, weight_of_one, inverse, out=out_of_one)
            return out

        return add_product

    def sweep(self, width: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the rows of U.

        The Cholesky factor of H with rows and columns reversed is, reversed back, an upper triangular R with H = R Rᵀ.
        Hence U = R⁻¹, and H⁻¹ is never computed.
        """
        upper = inverse_root(factorize(self.matrix.flip(1, 2))).flip(1, 2)
        columns = upper.shape[-1]
        for start in range(0, columns, width):
            stop = min(start + width, columns)
            yield start, stop, upper[:, start:stop, start:]

    def submatrices(self, group: Tensor, chosen: Tensor) -> Tensor:
        """Return H_SS."""
        return self.matrix[group[:, None, None], chosen[:, :, None], chosen[:, None, :]]

    def rows_of(self, group: Tensor, chosen: Tensor) -> Tensor:
        """Return rows of H."""
        return self.matrix[group[:, None], chosen]


@final
@dataclass(frozen=True)
class LowRankPlusDiagonal(Quadratic):
    """H = AᵀA + diag(ridge).

    Attributes:
        factor: A, `[groups, positions, columns]`.
        ridge: The added diagonal `[groups, columns]`, above zero.
    """

    factor: Tensor
    ridge: Tensor

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of H."""
        return self.factor.square().sum(-2) + self.ridge

    def to(self, dtype: torch.dtype) -> LowRankPlusDiagonal:
        """Return H in another dtype."""
        return LowRankPlusDiagonal(self.factor.to(dtype), self.ridge.to(dtype))

    def select(self, groups: Tensor) -> LowRankPlusDiagonal:
        """Return H of some groups."""
        return LowRankPlusDiagonal(self.factor[groups], self.ridge[groups])

    def multiply(self, weight: Tensor) -> Tensor:
        """Return `weight @ H`: 2 · rows · positions · columns multiply-adds."""
        return ((weight @ self.factor.mT) @ self.factor).addcmul_(weight, self.ridge.unsqueeze(-2))

    def scaled(self, scale: Tensor) -> LowRankPlusDiagonal:
        """Return diag(scale) H diag(scale)."""
        return LowRankPlusDiagonal(self.factor * scale.unsqueeze(-2), self.ridge * scale.square())

    def shifted_inverse(self, shift: float) -> AddProduct:
        """Return multiplication by the inverse, through a matrix of size positions² (Woodbury's identity).

        With D = diag(ridge) + shift I:  H⁻¹ = D⁻¹ - D⁻¹Aᵀ (I + A D⁻¹Aᵀ)⁻¹ A D⁻¹.
        """
        inverse_ridge = 1.0 / (self.ridge + shift).unsqueeze(-2)
        over_ridge = self.factor * inverse_ridge
        root = inverse_root(factorize(_plus_identity(over_ridge @ self.factor.mT)))
        left = root @ over_ridge  # [groups, positions, columns]

        def add_product(base: Tensor, weight: Tensor, out: Tensor) -> Tensor:
            torch.addcmul(base, weight, inverse_ridge, out=out)
            for out_of_one, scores in zip(out, weight @ left.mT, strict=True):
                out_of_one.baddbmm_(scores, left, alpha=-1)
            return out

        return add_product

    def sweep(self, width: int) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the rows of U, each block from the inverse of H on the remaining columns (Woodbury's identity)."""
        over_ridge = self.factor / self.ridge.unsqueeze(-2)
        core = _plus_identity(over_ridge @ self.factor.mT)
        columns = self.ridge.shape[-1]
        for start in range(0, columns, width):
            stop = min(start + width, columns)
            left = torch.linalg.solve_triangular(factorize(core), over_ridge[:, :, start:], upper=False)
            block = left[:, :, : stop - start]
            inverse_rows = -(block.mT @ left)  # [groups, stop - start, columns - start]
            inverse_rows.diagonal(dim1=-2, dim2=-1).add_(1.0 / self.ridge[:, start:stop])
            root = factorize(inverse_rows[:, :, : stop - start])
            yield start, stop, torch.linalg.solve_triangular(root, inverse_rows, upper=False)
            core = core - over_ridge[:, :, start:stop] @ self.factor[:, :, start:stop].mT

    def submatrices(self, group: Tensor, chosen: Tensor) -> Tensor:
        """Return H_SS."""
        part = self.factors(group, chosen)
        matrices = part.mT @ part
        matrices.diagonal(dim1=-2, dim2=-1).add_(self.ridge[group[:, None], chosen])
        return matrices

    def factors(self, group: Tensor, chosen: Tensor) -> Tensor:
        """Return A_S, `[batch, positions, width]`; arguments as in `submatrices`."""
        return self.factor.mT[group[:, None], chosen].mT

    def rows_of(self, group: Tensor, chosen: Tensor) -> Tensor:
        """Return rows of H."""
        rows = self.factors(group, chosen).mT @ self.factor[group]
        ridge = self.ridge[group[:, None], chosen].unsqueeze(-1)
        return rows.scatter_add(-1, chosen.unsqueeze(-1), ridge)


def stack(parts: Sequence[Quadratic]) -> Quadratic | None:
    """Return the groups of all parts as one, or None if the parts differ in form or size."""
    matrices = [part.matrix for part in parts if isinstance(part, Explicit)]
    if len(matrices) == len(parts):
        return Explicit(torch.cat(matrices))
    low_rank = [part for part in parts if isinstance(part, LowRankPlusDiagonal)]
    if len(low_rank) == len(parts) and len({part.factor.shape for part in low_rank}) == 1:
        return LowRankPlusDiagonal(
            torch.cat([part.factor for part in low_rank]), torch.cat([part.ridge for part in low_rank])
        )
    return None


def padded_submatrices(hessian: Quadratic, group: Tensor, columns: Tensor, is_padding: Tensor) -> Tensor:
    """Return H_SS of padded supports, `[batch, width, width]`; padding gets rows of the identity matrix.

    Args:
        hessian: H of every group.
        group: The group of each support, `[batch]`.
        columns: The supports, `[batch, width]`.
        is_padding: Boolean `[batch, width]`.
    """
    matrices = hessian.submatrices(group, columns)
    matrices.masked_fill_(is_padding.unsqueeze(1) | is_padding.unsqueeze(2), 0.0)
    matrices.diagonal(dim1=1, dim2=2).masked_fill_(is_padding, 1.0)
    return matrices


def _plus_identity(matrices: Tensor) -> Tensor:
    matrices.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return matrices


def factorize(matrices: Tensor) -> Tensor:
    """Return the lower Cholesky factors of matrices `[..., n, n]`.

    Raises:
        SolverError: A matrix is not positive definite.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrices)
    if bool((info != 0).any()):
        smallest = float(torch.linalg.eigvalsh(matrices[info != 0].double()).min())
        raise SolverError(
            f"Cannot factorize the Hessian: expected a positive definite matrix, smallest eigenvalue {smallest:.1e}. "
            "Raise the damping or use more views."
        )
    return factor


def inverse_root(factor: Tensor) -> Tensor:
    """Return the inverses of lower triangular matrices `[..., n, n]`."""
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    return inverse
