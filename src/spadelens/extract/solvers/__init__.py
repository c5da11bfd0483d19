"""The pruning solvers, one a file, and their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from spadelens.errors import InputError, UnknownNameError
from spadelens.extract.solvers.base import LayerProblem, LayerSolution, Solver
from spadelens.extract.solvers.magnitude import Magnitude
from spadelens.extract.solvers.obc import OBC
from spadelens.extract.solvers.sparsegpt import SparseGPT
from spadelens.extract.solvers.wanda import Wanda

SOLVERS: Mapping[str, type[Solver]] = MappingProxyType(
    {"magnitude": Magnitude, "wanda": Wanda, "sparsegpt": SparseGPT, "obc": OBC}
)

__all__ = ["OBC", "SOLVERS", "LayerProblem", "LayerSolution", "Magnitude", "Solver", "SparseGPT", "Wanda"]


def parse_solver(text: str) -> Solver:
    """Return the solver that `NAME` or `NAME:setting=value,setting=value` describes.

    Raises:
        UnknownNameError: There is no such solver or setting.
        InputError: A value is out of range or of the wrong type.
    """
    name, _, settings_text = text.partition(":")
    if name not in SOLVERS:
        raise UnknownNameError("solver", name, SOLVERS)
    solver_class = SOLVERS[name]
    types = {field.name: type(field.default) for field in dataclasses.fields(solver_class)}
    settings: dict[str, float | int | str] = {}
    for item in filter(None, settings_text.split(",")):
        key, _, value = item.partition("=")
        if key not in types:
            raise UnknownNameError(f"setting of solver {name!r}", key, types)
        try:
            settings[key] = types[key](value)
        except ValueError as error:
            raise InputError(
                f"Cannot use {key}={value!r} for solver {name!r}: expected a value of type {types[key].__name__}."
            ) from error
    return solver_class(**settings)  # type: ignore[arg-type]


def solver_name(solver: Solver) -> str:
    """Return the text that `parse_solver` turns into `solver`: settings at their defaults are left out."""
    name = next((known for known, solver_class in SOLVERS.items() if type(solver) is solver_class), None)
    if name is None:
        return type(solver).__name__
    changed = [
        f"{field.name}={getattr(solver, field.name)}"
        for field in dataclasses.fields(solver)
        if getattr(solver, field.name) != field.default
    ]
    return name + (":" + ",".join(changed) if changed else "")
