"""What the compensating solvers share: a Hessian that can be inverted, and the exact refit of a given support."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spadelens.errors import SolverError
from spadelens.extract.solvers.base import LayerProblem

_REFIT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class DampedProblem:
    """A layer with a positive definite Hessian.

    The objective becomes ||(W' - W) X||² + damping · mean(diag H) · ||W' - W||², whose answer does not change when the
    inputs are scaled. Inputs that are always zero ('dead') cost nothing whatever their weights are: those weights are
    set to zero here, so that they are the first to be pruned, and `restore_dead` gives the kept ones back.

    Attributes:
        weight: `[groups, rows, columns]`, zero at dead inputs.
        hessian: `[groups, columns, columns]`, damped; the identity at dead inputs.
        is_dead: `[groups, columns]`.
    """

    name: str
    weight: Tensor
    hessian: Tensor
    is_dead: Tensor
    dense_weight: Tensor

    def inverse_factor(self) -> Tensor:
        """Return U, upper triangular with H⁻¹ = UᵀU, `[groups, columns, columns]`.

        The Cholesky factor of the Hessian with its columns in reverse order is, reversed again, an upper triangular R
        with H = R Rᵀ; so U = R⁻¹, and the inverse is never formed.
        """
        factor = factorize(self.hessian.flip(1, 2), self.name).flip(1, 2)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        inverse_factor: Tensor = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=True)
        return inverse_factor

    def restore_dead(self, weight: Tensor, pruned: Tensor) -> Tensor:
        """Return `weight` in the dense type, with the dense value at dead inputs that were not pruned."""
        solved = weight.to(self.dense_weight.dtype)
        return torch.where(self.is_dead.unsqueeze(1), self.dense_weight, solved).masked_fill(pruned, 0.0)


def damp(problem: LayerProblem, damping: float) -> DampedProblem:
    """Return `problem` with `damping` times the mean of the Hessian's diagonal added to that diagonal.

    Computed in float64.
    """
    weight = problem.weight.double()
    hessian = problem.statistics.hessian().to(weight.dtype)
    diagonal = hessian.diagonal(dim1=1, dim2=2)  # a view: writing to it writes to the Hessian
    is_dead = diagonal == 0
    ridge = damping * diagonal.mean(-1, keepdim=True).expand_as(diagonal)
    diagonal.copy_(torch.where(is_dead, 1.0, diagonal + ridge))
    return DampedProblem(
        name=problem.name,
        weight=weight.masked_fill(is_dead.unsqueeze(1), 0.0),
        hessian=hessian,
        is_dead=is_dead,
        dense_weight=problem.weight,
    )


def factorize(matrices: Tensor, name: str) -> Tensor:
    """Return the lower Cholesky factors of `[..., n, n]`.

    Raises:
        SolverError: A matrix is not positive definite.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrices)
    if bool((info != 0).any()):
        smallest = float(torch.linalg.eigvalsh(matrices[info != 0]).min())
        raise SolverError(
            f"Cannot factorize the Hessian of layer {name!r}: expected a positive definite matrix, smallest "
            f"eigenvalue {smallest:.1e}. Raise the damping or use more views."
        )
    return factor


def refit(damped: DampedProblem, kept: Tensor) -> Tensor:
    """Return the weight `[groups, rows, columns]` that is best among those that are zero outside `kept`.

    Solves H_SS w_S = (W H)_S for the support S of every row, by batched Cholesky. Rows are taken in order of the size
    of their support, so that little is padded; a batch holds at most 256 MiB.

    Args:
        damped: The layer.
        kept: Boolean `[groups, rows, columns]`, the supports.

    Raises:
        SolverError: A Hessian of a support is not positive definite.
    """
    groups, rows, columns = damped.weight.shape
    targets = (damped.weight @ damped.hessian).flatten(0, 1)
    supports = kept.flatten(0, 1)
    sizes = supports.sum(-1)
    order = sizes.argsort(stable=True, descending=True)
    first_columns = supports.to(torch.uint8).argsort(dim=-1, stable=True, descending=True)
    solved = torch.zeros_like(targets)
    start = 0
    while start < groups * rows:
        width = int(sizes[order[start]])
        if width == 0:
            break
        batch = order[start : start + max(1, _REFIT_BYTES // (8 * width * width))]
        start += len(batch)
        chosen = first_columns[batch, :width]
        is_padding = ~supports[batch].gather(1, chosen)
        group = (batch // rows)[:, None, None]
        system = damped.hessian[group, chosen[:, :, None], chosen[:, None, :]]
        system = system.masked_fill(is_padding[:, :, None] | is_padding[:, None, :], 0.0)
        system.diagonal(dim1=1, dim2=2).masked_fill_(is_padding, 1.0)
        right = targets[batch].gather(1, chosen).masked_fill(is_padding, 0.0)
        answer = torch.cholesky_solve(right.unsqueeze(-1), factorize(system, damped.name)).squeeze(-1)
        solved[batch] = solved[batch].scatter(1, chosen, answer)
    return solved.view(groups, rows, columns)
