"""The contract of every solver: a layer and its inputs in, sparse weights out.

    minimise ||W' X - W X||²   over W' with a given number of weights set to zero

Several sparsities can be asked for at once, so that a solver can share one factorization or one greedy order among
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
    """One layer to be solved.

    Attributes:
        name: The qualified name of the layer.
        weight: The dense weight `[groups, rows, columns]`.
        statistics: What is known of the layer's inputs.
        sparsities: The fractions of weights to set to zero, each in [0, 1).
        kernel_columns: How many neighboring columns make up a kernel; 1 for layers without kernels.
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
        weights: The sparse weights `[sparsities, groups, rows, columns]`, in the type of the dense weight.
        pruned: Which weights were set to zero; same shape, boolean.
        detail: The solver note for the report.
    """

    weights: Tensor
    pruned: Tensor
    detail: str = ""


@dataclass(frozen=True)
class Solver(ABC):
    """Base of the solvers.

    Attributes:
        unit: What is pruned as a whole: single weights, or the k x k kernel of one output and one input channel.
    """

    unit: Unit = "weight"

    def __post_init__(self) -> None:
        """Reject an unknown unit."""
        if self.unit not in UNITS:
            raise InputError(f"Cannot prune by unit {self.unit!r}: expected one of {', '.join(map(repr, UNITS))}.")

    @abstractmethod
    def solve(self, problem: LayerProblem) -> LayerSolution:
        """Return the sparse weights of one layer, the exact number of units pruned for each sparsity.

        Raises:
            SolverError: The layer cannot be solved with these settings.
        """

    def solve_all(self, problems: Sequence[LayerProblem]) -> list[LayerSolution]:
        """Return the solutions of one layer for several samples: the same weight and sparsities, other inputs.

        Here they are found one after the other; a solver that can find them together does.

        Raises:
            SolverError: As `solve`.
        """
        return [self.solve(problem) for problem in problems]

    def unit_columns(self, problem: LayerProblem) -> int:
        """Return how many neighboring columns of the problem make up one unit."""
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
    """Return how many of `num_units` are pruned: the smallest number that reaches `sparsity`, but never all of them."""
    wanted = math.ceil(num_units * sparsity - 1e-9 * num_units)  # 0.7 * 10 is above 7 in floating point
    return max(0, min(wanted, num_units - 1))


def select_smallest(scores: Tensor, count: int) -> Tensor:
    """Return a boolean tensor that is True at exactly `count` of the smallest scores; ties go to the first."""
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
    """Return the k-th smallest of `values` `[n]`, counted from 1, as a tensor without dimensions.

    On a CPU by NumPy, which takes a fifth of the time of torch's `kthvalue`.
    """
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        found = np.partition(values.detach().numpy(), k - 1)[k - 1]
        return torch.as_tensor(found, dtype=values.dtype)
    return values.kthvalue(k).values


def prune_by_score(problem: LayerProblem, scores: Tensor, unit_columns: int) -> LayerSolution:
    """Prune the units of the smallest summed scores `[groups, rows, columns]` and leave the other weights as they are.

    The budget is shared by all rows and groups of the layer.
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
