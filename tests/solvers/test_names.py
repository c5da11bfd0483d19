"""Solvers written as texts, and settings that are refused."""

import dataclasses

import pytest
from references.layer_problems import make_inputs, make_weight, statistics_of

from spadelens.errors import InputError, ScheduleError, UnknownNameError
from spadelens.solvers import LayerProblem, LayerSolution, Solver, parse_solver, solver_name
from spadelens.solvers.admm import ADMM
from spadelens.solvers.auto import AutoSolver
from spadelens.solvers.magnitude import Magnitude
from spadelens.solvers.obc import OBC
from spadelens.solvers.ols import OLS
from spadelens.solvers.sparsegpt import SparseGPT
from spadelens.solvers.wanda import Wanda


@pytest.mark.parametrize(
    ("solver", "text"),
    [
        (OBC(), "obc"),
        (OBC(unit="kernel"), "obc:unit=kernel"),
        (SparseGPT(damping=1e-5, block_size=7), "sparsegpt:damping=1e-05,block_size=7"),
        (Magnitude(unit="kernel"), "magnitude:unit=kernel"),
        (Wanda(), "wanda"),
        (OBC(damping=1 / 3), f"obc:damping={1 / 3!r}"),
        (ADMM(num_stages=2, damping=0.5), "admm:damping=0.5,num_stages=2"),
        (OLS(candidates=1.5), "ols:candidates=1.5"),
        (AutoSolver(unit="kernel"), "auto:unit=kernel"),
    ],
)
def test_names_round_trip(solver: Solver, text: str) -> None:
    assert solver_name(solver) == text
    assert parse_solver(text) == solver


@dataclasses.dataclass(frozen=True)
class Foreign(Solver):
    """A solver from outside."""

    def solve(self, problem: LayerProblem) -> LayerSolution:
        raise NotImplementedError


def test_a_foreign_solver_goes_by_its_class() -> None:
    assert solver_name(Foreign()) == "Foreign"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("sparsgpt", UnknownNameError, r"Unknown solver 'sparsgpt'. Did you mean 'sparsegpt'"),
        ("", UnknownNameError, "Unknown solver ''"),
        ("obc:dampin=1", UnknownNameError, r"setting of solver 'obc' 'dampin'\. Did you mean 'damping'"),
        ("wanda:damping=1", UnknownNameError, "setting of solver 'wanda' 'damping'"),
        ("obc:damping=x", InputError, "damping='x' for solver 'obc': expected a value of type float"),
        ("sparsegpt:block_size=1.5", InputError, "block_size='1.5'.*type int"),
        ("sparsegpt:block_size=0", InputError, "block_size=0: expected a number above zero"),
        ("sparsegpt:damping=-1", InputError, r"damping=-1\.0: expected a number above zero"),
        ("obc:damping=0", InputError, r"damping=0\.0"),
        ("obc:damping=nan", InputError, "damping=nan"),
        ("obc:damping=inf", InputError, "damping=inf"),
        ("obc:damping", InputError, "damping=''"),
        ("admm:damping=0", InputError, r"damping=0\.0: expected a number above zero"),
        ("admm:num_stages=0", InputError, "num_stages=0: expected an integer of at least 1"),
        ("admm:num_exchanges=-1", InputError, "num_exchanges=-1: expected an integer of at least 0"),
        ("ols:candidates=0.5", InputError, r"candidates=0\.5: expected at least 1"),
        ("ols:candidates=nan", InputError, "candidates=nan"),
        ("obc:unit=row", InputError, "unit 'row': expected one of 'weight', 'kernel'"),
    ],
)
def test_texts_that_name_no_solver(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parse_solver(text)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, float("nan"), True, "0.5", None])
def test_sparsities_out_of_range(sparsity: object) -> None:
    with pytest.raises(ScheduleError, match=r"of layer 'a': expected a number in \[0, 1\)"):
        LayerProblem("a", make_weight(1, 1, 1), statistics_of(make_inputs(1, 2, 1)), (0.5, sparsity))
