"""The plan for each layer of a model, decided before any layer is solved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spadelens import defaults
from spadelens.capture.arrangement import Arrangement
from spadelens.capture.capture import Probe
from spadelens.errors import InputError, NothingToPruneError
from spadelens.extraction.report import Outcome
from spadelens.matrix_layers import MatrixLayer, is_convolution, is_depthwise, matrix_layers
from spadelens.schedules.schedule import (
    FixedSchedule,
    LayerInfo,
    Schedule,
    SearchedSchedule,
    TableWithFallback,
    choose_layers,
)

_UNFOLDED_BYTES = 64 * 2**20
_MOST_VIEWS_PER_BATCH = 32


@dataclass(frozen=True)
class Sampling:
    """How much of its inputs a layer uses.

    Attributes:
        num_views: Views of a sample.
        per_column: The maximum number of positions per weight column of a layer, over all views; None for no limit.
        least: The number of positions, over all views, to which no layer is limited further.
    """

    num_views: int
    per_column: int | None = None
    least: int = defaults.LEAST_POSITIONS

    def positions_per_view(self, matrix_shape: tuple[int, int, int]) -> int:
        """Return how many positions of each view are used of inputs that are (groups, positions, columns) a view."""
        _, positions, columns = matrix_shape
        if self.per_column is None:
            return positions
        wanted = max(self.per_column * columns, self.least)
        return min(positions, -(-wanted // self.num_views))


@dataclass(frozen=True)
class LayerPlan:
    """The layers of a model and what to do with them.

    Attributes:
        modules: Layer name -> layer, all of them: called ones first, in order of their calls.
        matrix_shapes: Layer name -> (groups, positions, columns) of its inputs for one sample, where it is called.
        sparsities: Layer name -> the sparsities that it is solved at, of the layers to prune, in order of their calls.
        left: The other layers: name -> outcome and its reason.
        sampling: How much of their inputs the layers get to see.
        arrangement: How inputs are arranged when several views run together.
    """

    modules: Mapping[str, MatrixLayer]
    matrix_shapes: Mapping[str, tuple[int, int, int]]
    sparsities: Mapping[str, tuple[float, ...]]
    left: Mapping[str, tuple[Outcome, str]]
    sampling: Sampling
    arrangement: Arrangement

    def keeps_inputs(self, name: str) -> bool:
        """Whether a layer sees fewer positions than it has columns: its inputs are kept, its Hessian never formed."""
        return _keeps_inputs(self.matrix_shapes[name], self.sampling)

    def statistics_bytes(self, name: str) -> int:
        """Return the memory for what is kept of the inputs of a layer, for one sample."""
        return _statistics_bytes(self.modules[name], self.matrix_shapes[name], self.sampling)

    @property
    def views_per_batch(self) -> int:
        """How many views to run at a time: the unfolded inputs of the largest layer take at most 64 MiB."""
        shapes = [self.matrix_shapes[name] for name in self.sparsities]
        largest = max((4 * groups * positions * columns for groups, positions, columns in shapes), default=1)
        return max(1, min(_MOST_VIEWS_PER_BATCH, _UNFOLDED_BYTES // largest))

    def samples_within(self, budget_mib: int) -> int:
        """Return for how many samples statistics and solutions fit the budget together; one at least."""
        needed = 0
        for name, sparsities in self.sparsities.items():
            kept_values = sum(1.0 - sparsity for sparsity in sparsities) * self.modules[name].weight.element_size()
            solutions = self.modules[name].weight.numel() * (kept_values + len(sparsities))
            needed += self.statistics_bytes(name) + int(solutions)
        return max(1, budget_mib * 2**20 // max(needed, 1))

    def passes(self, budget_mib: int) -> Iterator[list[str]]:
        """Split the layers to prune, in order, into groups whose statistics fit the budget together."""
        names: list[str] = []
        used = 0
        for name in self.sparsities:
            needed = self.statistics_bytes(name)
            if names and used + needed > budget_mib * 2**20:
                yield names
                names, used = [], 0
            names.append(name)
            used += needed
        if names:
            yield names


def make_plan(
    model: nn.Module,
    looked: Probe,
    schedule: Schedule,
    patterns: Sequence[str] | None,
    sampling: Sampling,
    budget_mib: int,
) -> LayerPlan:
    """Return the plan for each layer of `model`.

    Args:
        model: The original model.
        looked: The results of one forward pass of the sample.
        schedule: Gives the sparsities.
        patterns: The layers that may be pruned; None for every convolution except the first, and every linear layer.
        sampling: How much of their inputs the layers use.
        budget_mib: Memory for statistics in MiB; layers whose statistics take more are not pruned.

    Raises:
        NothingToPruneError: No layer may be pruned.
        ScheduleError: The schedule or a pattern does not fit the model.
    """
    registered = matrix_layers(model)
    called = looked.called
    modules = {name: registered[name] for name in [*called, *(n for n in registered if n not in called)]}
    infos = [LayerInfo(name, is_convolution(modules[name]), is_depthwise(modules[name])) for name in called]
    chosen = choose_layers(infos, patterns)
    allowed = [layer for layer in chosen if layer.name not in looked.unsupported]
    if not allowed:
        raise NothingToPruneError(_nothing_to_prune(modules, looked, [layer.name for layer in chosen]))
    sparsities = _sparsities(schedule, allowed)
    left: dict[str, tuple[Outcome, str]] = {}
    for name in modules:
        if name in looked.unsupported:
            left[name] = (Outcome.UNSUPPORTED, looked.unsupported[name])
        elif name not in called:
            left[name] = (Outcome.NOT_CALLED, "its weight is not used on this sample")
        elif name not in sparsities:
            left[name] = (Outcome.EXCLUDED, "first convolution" if patterns is None else "not one of the chosen layers")
        elif not any(sparsities[name]):
            left[name] = (Outcome.UNPRUNED, "the schedule does not prune it")
        elif (needed := _statistics_bytes(modules[name], looked.matrix_shapes[name], sampling)) > budget_mib * 2**20:
            what = "kept inputs take" if _keeps_inputs(looked.matrix_shapes[name], sampling) else "Hessian takes"
            detail = f"its {what} {needed / 2**20:,.0f} MiB, but the memory budget is {budget_mib:,} MiB"
            left[name] = (Outcome.TOO_LARGE, detail)
    return LayerPlan(
        modules=modules,
        matrix_shapes=looked.matrix_shapes,
        sparsities={name: sparsity for name, sparsity in sparsities.items() if name not in left},
        left=left,
        sampling=sampling,
        arrangement=looked.arrangement,
    )


def _nothing_to_prune(modules: Mapping[str, MatrixLayer], looked: Probe, chosen: Sequence[str]) -> str:
    if not modules:
        return (
            "The model has no convolution or linear layer to prune. If it is a torch.export or torch.fx program, whose "
            "operations have no layers, bring the module that it was made from."
        )
    if chosen:
        return (
            f"None of the {len(chosen)} layers to prune can be pruned, such as {chosen[0]!r}: "
            f"{looked.unsupported[chosen[0]]}."
        )
    return (
        f"The model has no layer that may be pruned: it has {len(modules)} convolutions and linear layers, "
        f"{len(looked.called)} of them called, and the first convolution is not pruned by default. Name the layers to "
        "prune with `layers` (--layers) to change that."
    )


def _sparsities(schedule: Schedule, allowed: Sequence[LayerInfo]) -> dict[str, tuple[float, ...]]:
    if isinstance(schedule, FixedSchedule):
        return {name: (sparsity,) for name, sparsity in schedule.sparsities(allowed).items()}
    if isinstance(schedule, SearchedSchedule):
        searched = set(schedule.layers(allowed))
        return {layer.name: schedule.levels if layer.name in searched else (0.0,) for layer in allowed}
    if isinstance(schedule, TableWithFallback):
        return schedule.levels(allowed)
    raise InputError(
        f"Cannot use {schedule!r} as a schedule: expected a FixedSchedule, a SearchedSchedule or a TableWithFallback."
    )


def _keeps_inputs(matrix_shape: tuple[int, int, int], sampling: Sampling) -> bool:
    return sampling.num_views * sampling.positions_per_view(matrix_shape) < matrix_shape[2]


def _statistics_bytes(module: MatrixLayer, matrix_shape: tuple[int, int, int], sampling: Sampling) -> int:
    groups, _, columns = matrix_shape
    keeps_inputs = _keeps_inputs(matrix_shape, sampling)
    height = sampling.num_views * sampling.positions_per_view(matrix_shape) if keeps_inputs else columns
    return groups * height * columns * statistics_dtype(module).itemsize


def statistics_dtype(module: MatrixLayer) -> torch.dtype:
    """Return the type in which statistics of the inputs of `module` are kept: its own, but at least float32."""
    return torch.float64 if module.weight.dtype == torch.float64 else torch.float32
