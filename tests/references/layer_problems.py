"""Layers to solve: correlated inputs, weights, and their statistics in both forms."""

import torch
from torch import Tensor

from spadelens.capture.hessian import HessianStatistics, InputStatistics, StoredInputs
from spadelens.solvers import LayerProblem, LayerSolution, Solver

COMPENSATING = ("admm", "auto", "obc", "ols", "sparsegpt")
DTYPE = torch.float64


def statistics_of(inputs: Tensor, is_kept: bool = False) -> InputStatistics:
    """The sum of outer products, or with `is_kept` the inputs themselves: what layers with few positions are given."""
    statistics: InputStatistics = HessianStatistics(inputs.shape[0], inputs.shape[2], inputs.dtype, inputs.device)
    if is_kept:
        statistics = StoredInputs(inputs.dtype)
    statistics.add(inputs)
    return statistics


def make_inputs(groups: int, positions: int, columns: int, seed: int = 0) -> Tensor:
    """Correlated inputs of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, columns, columns, generator=generator, dtype=DTYPE)
    plain = torch.randn(groups, positions, columns, generator=generator, dtype=DTYPE)
    return plain @ mixing + plain


def make_weight(groups: int, rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randn(groups, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def solve(
    solver: Solver, weight: Tensor, inputs: Tensor, *sparsities: float, kernel: int = 1, is_kept: bool = False
) -> LayerSolution:
    return solver.solve(LayerProblem("a.layer", weight, statistics_of(inputs, is_kept), sparsities, kernel))
