"""Runs views through the original model and collects, for each sample, the input statistics its solvers need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from spadelens.capture.capture import capture_inputs
from spadelens.capture.hessian import HessianStatistics, InputStatistics, StoredInputs
from spadelens.errors import UnknownNameError
from spadelens.extraction.pipeline.plan import LayerPlan, statistics_dtype
from spadelens.matrix_layers import MatrixLayer
from spadelens.randomness import permutation
from spadelens.views.view_source import ViewSource

Precision: TypeAlias = Literal["float32", "bfloat16"]


def check_precision(name: str) -> Precision:
    """Return `name` if it names a precision; raises `UnknownNameError` otherwise."""
    for precision in get_args(Precision):
        if name == precision:
            return cast("Precision", precision)
    raise UnknownNameError("precision", name, get_args(Precision))


@dataclass(frozen=True)
class Batches:
    """The views of several samples in batches, and where each view of the current batch belongs.

    Attributes:
        sources: Where the views come from, one source per sample.
        size: The maximum number of views per batch.
        is_mixed: Whether a batch may hold views of several samples.
        is_held_out: Whether to use the held-out views.
    """

    sources: Sequence[ViewSource]
    size: int
    is_mixed: bool = False
    is_held_out: bool = False
    _current: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of views."""
        return sum(source.num_held_out if self.is_held_out else source.num_views for source in self.sources)

    @property
    def current(self) -> Sequence[tuple[int, int]]:
        """The views of the batch that was yielded last, as (number of the sample, number of the view)."""
        return self._current

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the batches `[batch, ...]`."""
        waiting: list[tuple[int, int]] = []
        for number, source in enumerate(self.sources):
            start = source.num_views if self.is_held_out else 0
            stop = start + (source.num_held_out if self.is_held_out else source.num_views)
            for view in range(start, stop):
                waiting.append((number, view))
                is_last = view == stop - 1 and (not self.is_mixed or number == len(self.sources) - 1)
                if len(waiting) == self.size or is_last:
                    yield self._make(waiting)
                    waiting = []
        if waiting:
            yield self._make(waiting)

    def _make(self, views: list[tuple[int, int]]) -> Tensor:
        self._current[:] = views
        parts, start = [], 0
        for stop in range(1, len(views) + 1):  # consecutive views of one sample are made together
            if stop == len(views) or views[stop][0] != views[start][0]:
                parts.append(self.sources[views[start][0]].make(views[start][1], views[stop - 1][1] + 1))
                start = stop
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class PositionSampler:
    """Chooses which positions of a view are used, the same ones whatever the batch.

    Where `plan.sampling` gives a layer fewer positions than it has, it gets equally many of every view: successive
    pieces of one random order of the places of a view, so that views show different places.

    Attributes:
        plan: The layers.
        seed: Determines the orders.
    """

    plan: LayerPlan
    seed: int

    def choose(self, name: str, num_positions: int, views: Sequence[tuple[int, int]]) -> Tensor | None:
        """Return the numbers of the chosen positions of each of `views`, `[views, count]`; None for all of them.

        Args:
            name: The layer.
            num_positions: How many positions one call has; every view has equally many.
            views: As `Batches.current`.
        """
        if self.plan.sampling.per_column is None or num_positions % len(views):
            return None
        available = num_positions // len(views)
        shape = self.plan.matrix_shapes[name]  # its positions are those of all calls of the layer
        count = -(-self.plan.sampling.positions_per_view(shape) * available // shape[1])
        if count >= available:
            return None
        order = permutation(available, self.seed, list(self.plan.modules).index(name))
        starts = torch.tensor([view for _, view in views]).unsqueeze(1) * count
        return order[(starts + torch.arange(count)) % available].to(self.plan.modules[name].weight.device)


def gather_statistics(
    model: nn.Module,
    plan: LayerPlan,
    names: Sequence[str],
    batches: Batches,
    sampler: PositionSampler,
    precision: Precision,
    done: Callable[[int], None],
) -> list[dict[str, InputStatistics]]:
    """Run all views once and return, for each sample, layer name -> what was seen of its inputs.

    Inputs are kept as they are where a layer sees fewer positions than it has columns; elsewhere its Hessian is summed.

    Args:
        model: The original model.
        plan: Its layers.
        names: Those that are wanted.
        batches: The views.
        sampler: Chooses positions.
        precision: In which Hessians are summed up: 'bfloat16' rounds the inputs, never the sums.
        done: Called with the number of views that have been run, after each batch.
    """
    modules = {name: plan.modules[name] for name in names}
    found = [{name: _new_statistics(plan, name, precision) for name in names} for _ in batches.sources]
    run_batches(model, modules, batches, sampler, done, lambda number, name, inputs: found[number][name].add(inputs))
    return found


def run_batches(
    model: nn.Module,
    modules: Mapping[str, MatrixLayer],
    batches: Batches,
    sampler: PositionSampler,
    done: Callable[[int], None],
    consume: Callable[[int, str, Tensor], None],
) -> None:
    """Run `batches` through `model` and call `consume(number of the sample, layer, inputs)` for every layer.

    Views are run one by one where those of a batch cannot be told apart in all of the layers.

    Raises:
        ModelOutputError: The model fails on a batch, or returns anything else than finite scores.
    """
    arrangement = sampler.plan.arrangement
    views: list[tuple[int, int]] = []

    def reported() -> Iterator[Tensor]:
        count = 0
        done(0)
        for batch in batches:
            size = len(batch) if len(batch) == 1 or arrangement.is_known(modules) else 1
            for start in range(0, len(batch), size):
                views[:] = batches.current[start : start + size]
                yield batch[start : start + size]
            count += len(batch)
            done(count)

    def split(name: str, inputs: Tensor) -> None:
        numbers = sorted({number for number, _ in views})
        if len(numbers) == 1:
            consume(numbers[0], name, inputs)
            return
        by_view = inputs.unflatten(1, (len(views), -1))
        for number in numbers:
            rows = [row for row, (owner, _) in enumerate(views) if owner == number]
            consume(number, name, by_view[:, rows[0] : rows[-1] + 1].flatten(1, 2))

    def choose(name: str, num_positions: int) -> Tensor | None:
        return sampler.choose(name, num_positions, views)

    capture_inputs(model, modules, reported(), split, choose, arrangement)


def _new_statistics(plan: LayerPlan, name: str, precision: Precision) -> InputStatistics:
    """Return empty statistics for one sample, of the kind that takes less memory."""
    module = plan.modules[name]
    groups, _, columns = plan.matrix_shapes[name]
    dtype = statistics_dtype(module)
    if plan.keeps_inputs(name):
        return StoredInputs(dtype)
    return HessianStatistics(groups, columns, dtype, module.weight.device, is_rounded=precision == "bfloat16")
