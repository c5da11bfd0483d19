"""The pruning solvers, one per file, and the registry of their names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from spadelens.settings import configured_name, parse_configured
from spadelens.solvers.admm import ADMM
from spadelens.solvers.auto import AutoSolver
from spadelens.solvers.base import LayerProblem, LayerSolution, Solver
from spadelens.solvers.magnitude import Magnitude
from spadelens.solvers.obc import OBC
from spadelens.solvers.ols import OLS
from spadelens.solvers.sparsegpt import SparseGPT
from spadelens.solvers.wanda import Wanda

SOLVERS: Mapping[str, type[Solver]] = MappingProxyType(
    {
        "auto": AutoSolver,
        "admm": ADMM,
        "ols": OLS,
        "obc": OBC,
        "sparsegpt": SparseGPT,
        "wanda": Wanda,
        "magnitude": Magnitude,
    }
)

__all__ = [
    "ADMM",
    "OBC",
    "OLS",
    "SOLVERS",
    "AutoSolver",
    "LayerProblem",
    "LayerSolution",
    "Magnitude",
    "Solver",
    "SparseGPT",
    "Wanda",
]


def parse_solver(text: str) -> Solver:
    """Return the solver described by `NAME` or `NAME:setting=value,...`.

    Raises:
        UnknownNameError: There is no such solver or setting.
        InputError: A value cannot be read or is out of range.
    """
    return parse_configured("solver", text, SOLVERS)


def solver_name(solver: Solver) -> str:
    """Return the text from which `parse_solver` makes `solver`; defaults are omitted."""
    return configured_name(solver, SOLVERS)
