"""The solver interface: a layer and its inputs in, sparse weights out.

    minimize ||W' X - W X||²   over W' with a given number of weights set to zero

A problem can ask for several sparsities at once, so that a solver can share one factorization or one greedy order among
them. A solver is a frozen dataclass of its settings and holds no state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from spadelens.capture.hessian import InputStatistics
from spadelens.errors import InputError, ScheduleError, SolverError
from spadelens.matrix_layers import UNITS, Unit


@dataclass(frozen=True)
class LayerProblem:
    """One layer to prune.

    Attributes:
        name: The qualified name of the layer.
        weight: The dense weight `[groups, rows, columns]`.
        statistics: The layer's inputs, or their Hessian.
        sparsities: The fractions of weights to set to zero, each in [0, 1).
        kernel_columns: The number of adjacent columns that form one kernel; 1 for layers without kernels.
    """

    name: str
    weight: Tensor
    statistics: InputStatistics
    sparsities: tuple[float, ...]
    kernel_columns: int = 1

    def __post_init__(self) -> None:
        """Reject sparsities outside [0, 1) and inputs that are not finite."""
        for sparsity in self.sparsities:
            check_sparsity(sparsity, f"of layer {self.name!r}")
        if not bool(torch.isfinite(self.statistics.diagonal()).all()):
            raise SolverError(
                f"Cannot solve layer {self.name!r}: its inputs contain values that are not finite. "
                "Check the model on the views of this sample."
            )


@dataclass(frozen=True)
class LayerSolution:
    """The answer to a `LayerProblem`.

    Attributes:
        weights: The sparse weights `[sparsities, groups, rows, columns]`, in the dtype of the dense weight.
        pruned: Boolean, same shape: True for the weights that were set to zero.
        detail: A note for the report, or ''.
    """

    weights: Tensor
    pruned: Tensor
    detail: str = ""


@dataclass(frozen=True)
class Solver(ABC):
    """Base class of all solvers.

    Attributes:
        unit: The unit of pruning: 'weight' for single weights, or 'kernel' for the k x k kernel that connects one input
            channel to one output channel.
    """

    unit: Unit = "weight"

    def __post_init__(self) -> None:
        """Reject an unknown unit."""
        if self.unit not in UNITS:
            raise InputError(f"Cannot prune by unit {self.unit!r}: expected one of {', '.join(map(repr, UNITS))}.")

    @abstractmethod
    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the sparse weights of one layer, with exactly the number of units pruned that each sparsity asks for.

        Raises:
            SolverError: The layer cannot be solved with these settings. The message need not name the layer.
        """

    def solve_all(self, problems: Sequence[LayerProblem]) -> list[LayerSolution]:
        """Return the solutions of one layer for several samples: same weight and sparsities, different inputs.

        By default, this solves one problem after another; solvers that can solve them together override it.

        Raises:
            SolverError: As `solve`.
        """
        return [self.solve(problem) for problem in problems]

    def unit_columns(self, problem: LayerProblem) -> int:
        """Return the number of adjacent columns that form one unit in this problem."""
        return problem.kernel_columns if self.unit == "kernel" else 1


def check_sparsity(sparsity: float, of_what: str) -> None:
    """Raise `ScheduleError` unless `sparsity` is a number in [0, 1)."""
    is_number = isinstance(sparsity, Real) and not isinstance(sparsity, bool)
    if not is_number or not 0.0 <= sparsity < 1.0:
        raise ScheduleError(f"Cannot use the sparsity {sparsity!r} {of_what}: expected a number in [0, 1).")


def check_positive(value: float, name: str) -> None:
    """Raise `InputError` unless the setting `name` is a finite number above zero."""
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"Cannot use {name}={value!r}: expected a number above zero.")


def num_units_pruned(num_units: int, sparsity: float) -> int:
    """Return how many of `num_units` to prune: the smallest number that reaches `sparsity`, but never all of them."""
    wanted = math.ceil(num_units * sparsity - 1e-9 * num_units)  # in floating point, 0.7 * 10 exceeds 7
    return max(0, min(wanted, num_units - 1))


def select_smallest(scores: Tensor, count: int) -> Tensor:
    """Return a boolean tensor that is True at exactly the `count` smallest scores; of equal scores, the first win."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    threshold = kth_smallest(flat, count)
    selected = flat <= threshold
    num_selected = int(selected.count_nonzero())
    if num_selected > count:
        ties = (flat == threshold).nonzero().squeeze(-1)
        selected[ties[count - num_selected :]] = False
    return selected.view(scores.shape)


def kth_smallest(values: Tensor, k: int) -> Tensor:
    """Return the k-th smallest of `values` `[n]`, counting from 1, as a scalar tensor.

    On a CPU, this uses NumPy, which takes a fifth of the time of torch's `kthvalue`.
    """
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        found = np.partition(values.detach().numpy(), k - 1)[k - 1]
        return torch.as_tensor(found, dtype=values.dtype)
    return values.kthvalue(k).values


def prune_by_score(problem: LayerProblem, scores: Tensor, unit_columns: int) -> LayerSolution:
    """Prune the units with the smallest total score and leave the other weights unchanged.

    All rows and groups of the layer share one budget.

    Args:
        problem: The layer.
        scores: A score for every weight, `[groups, rows, columns]`, summed over each unit.
        unit_columns: The number of columns per unit.
    """
    unit_scores = scores.unflatten(-1, (-1, unit_columns)).sum(-1)
    pruned = torch.stack(
        [
            select_smallest(unit_scores, num_units_pruned(unit_scores.numel(), sparsity)).repeat_interleave(
                unit_columns, dim=-1
            )
            for sparsity in problem.sparsities
        ]
    )
    weights = problem.weight * (~pruned).to(problem.weight.dtype)  # faster than masked_fill
    return LayerSolution(weights=weights, pruned=pruned)
