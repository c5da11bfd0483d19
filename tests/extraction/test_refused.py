"""Models, arguments and solvers that no trace can be made with."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from references.extraction import SAMPLE, extract, make_net
from torch import Tensor, nn

from spadelens.errors import (
    InputError,
    ModelOutputError,
    NothingToPruneError,
    ScheduleError,
    SolverError,
    UnknownNameError,
)
from spadelens.extraction.extraction import extract_trace
from spadelens.solvers import SOLVERS, LayerProblem, LayerSolution, Magnitude, Solver
from spadelens.views.photo_views import Augmentation


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_hessian_that_overflows_is_an_error(solver: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(SolverError, match="layer '0'"):
        extract(model, sample=torch.full((4,), 1e25), augmentation="none", solver=solver)


class Returns(nn.Module):
    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.change = make_net(), change

    def forward(self, x: Tensor) -> object:
        return self.change(self.net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: (y,), "returned a tuple"),
        (lambda y: {"logits": y}, "returned a dict"),
        (lambda y: y * torch.nan, "not finite"),
        (lambda y: y[:, :, None], r"shape \[1, 5, 1\]"),
        (lambda y: y[:, :1], "at least two classes"),
        (lambda y: y[0], r"shape \[5\]"),
        (lambda y: y.argmax(1), "torch.int64"),
        (lambda y: y @ torch.zeros(2, 2), "cannot be run on a batch of shape .*RuntimeError"),
        (lambda y: {}["logits"], "KeyError"),
    ],
)
def test_models_without_class_scores(change: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ModelOutputError, match=message):
        extract(Returns(change))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sample": None}, InputError, "Cannot explain a NoneType"),
        ({"sample": SAMPLE.numpy()}, InputError, "Cannot explain a ndarray"),
        ({"sample": SAMPLE.int()}, InputError, "torch.int32"),
        ({"sample": SAMPLE * torch.nan}, InputError, "NaN or infinity"),
        ({"sample": SAMPLE[:, :0]}, InputError, r"shape \[3, 0, 7\]"),
        ({"sample": torch.tensor(1.0)}, InputError, r"shape \[\]"),
        ({"sample": SAMPLE[None, None]}, InputError, r"\[1, 1, 3, 9, 7\]"),
        ({"solver": "sparsgpt"}, UnknownNameError, "Did you mean 'sparsegpt'"),
        ({"solver": 5}, InputError, "solver"),
        ({"solver": Magnitude}, InputError, "solver"),
        ({"augmentation": "nose"}, UnknownNameError, "Did you mean 'noise'"),
        ({"augmentation": 5}, InputError, "5 as an augmentation"),
        ({"schedule": 1.0}, ScheduleError, "sparsity 1.0"),
        ({"positions_per_column": -1}, InputError, "positions_per_column=-1"),
        ({"precision": "float16"}, UnknownNameError, "precision 'float16'"),
        ({"preset": "balance"}, UnknownNameError, "Did you mean 'balanced'"),
        ({"target": 5}, InputError, "no class 5"),
        ({"target": True}, InputError, "no class True"),
        ({"schedule": {"nothing": 0.5}}, ScheduleError, "pattern 'nothing'"),
        ({"layers": ["nothing"]}, ScheduleError, "pattern 'nothing'"),
        ({"layers": "fc"}, InputError, "layers"),
        ({"layers": []}, NothingToPruneError, "no layer that may be pruned"),
        ({"num_views": 0}, InputError, "num_views=0"),
        ({"num_views": 2.5}, InputError, "num_views=2.5"),
        ({"seed": -1}, InputError, "seed=-1"),
        ({"batch_size": 0}, InputError, "batch_size=0"),
        ({"batch_size": True}, InputError, "batch_size=True"),
        ({"memory_budget_mib": 0}, InputError, "memory_budget_mib=0"),
        ({"views": []}, InputError, "`views` is empty"),
        ({"views": SAMPLE}, InputError, r"views of shape \[3, 9, 7\]"),
        ({"views": [SAMPLE[None] * torch.inf]}, InputError, "NaN or infinity"),
    ],
)
def test_arguments_that_cannot_be_used(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        extract(make_net(), **changes)


def test_models_that_are_none() -> None:
    with pytest.raises(InputError, match="Cannot explain a function"):
        extract_trace(lambda x: x, SAMPLE)
    with pytest.raises(NothingToPruneError, match="no convolution or linear layer to prune"):
        extract(nn.Flatten())
    with pytest.raises(NothingToPruneError, match="first convolution is not pruned"):
        extract(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))


@pytest.mark.parametrize("flaw", ["nothing", "nan", "shape", "not zero"])
def test_a_solver_that_breaks_its_contract_is_named(flaw: str) -> None:
    class Broken(Solver):
        def solve(self, problem: LayerProblem) -> LayerSolution:
            weights, pruned = problem.weight[None].clone(), torch.zeros_like(problem.weight[None], dtype=torch.bool)
            if flaw == "nan":
                weights.fill_(float("nan"))
            elif flaw == "shape":
                weights = weights[0]
            elif flaw == "not zero":
                pruned[..., 0] = True
            return LayerSolution(weights, pruned)

    with pytest.raises(SolverError, match=r"The solver .* for layer 'depthwise'"):
        extract(make_net(), solver=Broken(), schedule=0.5)


def test_augmentations_that_make_too_few_views_are_refused() -> None:
    class One(Augmentation):
        def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
            return sample[None]

        def spec(self) -> str:
            return "one"

    with pytest.raises(InputError, match="expected views"):
        extract(make_net(), augmentation=One())
