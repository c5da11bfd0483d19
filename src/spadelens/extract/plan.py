"""What is to become of each layer of a model, decided before any of them is solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spadelens.errors import NothingToPruneError
from spadelens.extract.capture import Probe
from spadelens.extract.report import Outcome
from spadelens.extract.schedule import LayerInfo, Schedule, choose_layers
from spadelens.layers import MatrixLayer, is_convolution, is_depthwise, matrix_layers

_UNFOLDED_BYTES = 64 * 2**20
_MOST_VIEWS_PER_BATCH = 32


@dataclass(frozen=True)
class LayerPlan:
    """The layers of a model and what to do with them.

    Attributes:
        modules: Layer name -> layer, all of them: called ones first, in order of their calls.
        matrix_shapes: Layer name -> (groups, positions, columns) of its inputs for one sample, where it is called.
        sparsities: Layer name -> sparsity, of the layers to prune, in order of their calls.
        left: The other layers: name -> outcome and its reason.
    """

    modules: Mapping[str, MatrixLayer]
    matrix_shapes: Mapping[str, tuple[int, int, int]]
    sparsities: Mapping[str, float]
    left: Mapping[str, tuple[Outcome, str]]

    @property
    def views_per_batch(self) -> int:
        """How many views to run at a time: the unfolded inputs of the largest layer take at most 64 MiB."""
        shapes = [self.matrix_shapes[name] for name in self.sparsities]
        largest = max((4 * groups * positions * columns for groups, positions, columns in shapes), default=1)
        return max(1, min(_MOST_VIEWS_PER_BATCH, _UNFOLDED_BYTES // largest))

    def passes(self, budget_mib: int) -> Iterator[list[str]]:
        """Split the layers to prune, in order, into groups whose Hessians fit the budget together."""
        names: list[str] = []
        used = 0
        for name in self.sparsities:
            needed = hessian_bytes(self.modules[name], self.matrix_shapes[name])
            if names and used + needed > budget_mib * 2**20:
                yield names
                names, used = [], 0
            names.append(name)
            used += needed
        if names:
            yield names


def make_plan(
    model: nn.Module, looked: Probe, schedule: Schedule, patterns: Sequence[str] | None, budget_mib: int
) -> LayerPlan:
    """Return what is to become of each layer of `model`.

    Args:
        model: The dense model.
        looked: What one pass of the sample has shown.
        schedule: Gives the sparsities.
        patterns: The layers that may be pruned; None for every convolution but the first, and every linear layer.
        budget_mib: Memory for Hessians; layers whose own is larger stay dense.

    Raises:
        NothingToPruneError: There is no layer that may be pruned.
        ScheduleError: The schedule or a pattern does not fit the model.
    """
    registered = matrix_layers(model)
    called = list(looked.matrix_shapes)
    modules = {name: registered[name] for name in [*called, *(n for n in registered if n not in called)]}
    infos = [LayerInfo(name, is_convolution(modules[name]), is_depthwise(modules[name])) for name in called]
    allowed = [layer for layer in choose_layers(infos, patterns) if layer.name not in looked.unsupported]
    if not allowed:
        raise NothingToPruneError(
            f"The model has no layer that may be pruned: it has {len(modules)} convolutions and linear layers, "
            f"{len(called)} of them called, {len(looked.unsupported)} not supported, and the first convolution stays "
            "dense. "
            "Name the layers to prune explicitly to change that."
        )
    sparsities = schedule.sparsities(allowed)
    left: dict[str, tuple[Outcome, str]] = {}
    for name in modules:
        if name in looked.unsupported:
            left[name] = (Outcome.UNSUPPORTED, looked.unsupported[name])
        elif name not in called:
            left[name] = (Outcome.NOT_CALLED, "its forward is not called on this sample; it stays dense")
        elif name not in sparsities:
            left[name] = (Outcome.EXCLUDED, "first convolution" if patterns is None else "not among the chosen layers")
        elif sparsities[name] == 0.0:
            left[name] = (Outcome.DENSE, "the schedule gives it sparsity 0")
        elif (needed := hessian_bytes(modules[name], looked.matrix_shapes[name])) > budget_mib * 2**20:
            detail = f"its Hessian takes {needed / 2**20:,.0f} MiB, the memory budget is {budget_mib:,} MiB"
            left[name] = (Outcome.TOO_LARGE, detail)
    return LayerPlan(
        modules=modules,
        matrix_shapes=looked.matrix_shapes,
        sparsities={name: sparsity for name, sparsity in sparsities.items() if name not in left},
        left=left,
    )


def hessian_bytes(module: MatrixLayer, matrix_shape: tuple[int, int, int]) -> int:
    """Return the memory for the Hessian of a layer whose inputs are (groups, positions, columns)."""
    groups, _, columns = matrix_shape
    return groups * columns**2 * statistics_dtype(module).itemsize


def statistics_dtype(module: MatrixLayer) -> torch.dtype:
    """Return the type in which statistics of the inputs of `module` are kept: its own, but at least float32."""
    return torch.float64 if module.weight.dtype == torch.float64 else torch.float32
