"""Runs views through the original model and collects, for each sample, the input statistics its solvers need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from spadelens.capture.capture import InputCapture
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


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """A batch of views.

    Attributes:
        inputs: The views, `[batch, ...]`.
        views: For each view, (number of the sample, number of the view); in ascending order.
    """

    inputs: Tensor
    views: Sequence[tuple[int, int]]

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self.views)

    def one_by_one(self) -> list[ViewBatch]:
        """Return a batch for each view."""
        parts = self.inputs.split(1)
        return [ViewBatch(part, [view]) for part, view in zip(parts, self.views, strict=True)]

    def by_sample(self, inputs: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of the sample, its part) of layer inputs `[groups, positions, columns]` of the batch."""
        numbers = sorted({number for number, _ in self.views})
        if len(numbers) == 1:
            yield numbers[0], inputs
            return
        by_view = inputs.unflatten(1, (len(self.views), -1))
        for number in numbers:
            rows = [row for row, (owner, _) in enumerate(self.views) if owner == number]
            yield number, by_view[:, rows[0] : rows[-1] + 1].flatten(1, 2)


@dataclass(frozen=True)
class Batches:
    """The views of several samples in batches.

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

    def __len__(self) -> int:
        """Return the number of views."""
        return sum(source.num_held_out if self.is_held_out else source.num_views for source in self.sources)

    def __iter__(self) -> Iterator[ViewBatch]:
        """Yield the batches."""
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

    def _make(self, views: list[tuple[int, int]]) -> ViewBatch:
        parts, start = [], 0
        for stop in range(1, len(views) + 1):  # consecutive views of one sample are made together
            if stop == len(views) or views[stop][0] != views[start][0]:
                parts.append(self.sources[views[start][0]].make(views[start][1], views[stop - 1][1] + 1))
                start = stop
        return ViewBatch(parts[0] if len(parts) == 1 else torch.cat(parts), views)


@dataclass(frozen=True)
class PositionSampler:
    """Chooses which positions of a view are used, the same ones whatever the batch.

    If `plan.sampling` gives a layer fewer positions than it has, every view contributes equally many: successive pieces
    of one random order of a view's positions, so that views contribute different positions.

    Attributes:
        plan: The layers.
        seed: Determines the random orders.
    """

    plan: LayerPlan
    seed: int

    def choose(self, name: str, num_positions: int, views: Sequence[tuple[int, int]]) -> Tensor | None:
        """Return the indices of the chosen positions of each of `views`, `[views, count]`; None for all positions.

        Args:
            name: The layer.
            num_positions: The number of positions in one call, over all views; every view has equally many.
            views: As in `ViewBatch`.
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
    """Run all views once and return, for each sample, layer name -> statistics of its inputs.

    For a layer that sees fewer positions than it has columns, the inputs are stored; for others, the Hessian is
    accumulated.

    Args:
        model: The original model.
        plan: Its layers.
        names: The layers for which to gather statistics.
        batches: The views.
        sampler: Chooses positions.
        precision: The precision of the inputs of Hessians: 'bfloat16' rounds the inputs, but never the sums.
        done: Called with the number of views run so far, before the first batch and after each.
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

    If the views of a batch cannot be told apart in all layers, they are run one by one.

    Raises:
        ModelOutputError: The model fails on a batch, or returns anything other than finite scores.
    """
    arrangement = sampler.plan.arrangement
    capture = InputCapture(model, modules, arrangement)
    count = 0
    done(count)
    for batch in batches:
        are_together = len(batch) == 1 or arrangement.is_known(modules)
        for part in [batch] if are_together else batch.one_by_one():
            capture.run(part.inputs, partial(_split, part, consume), partial(sampler.choose, views=part.views))
        count += len(batch)
        done(count)


def _split(batch: ViewBatch, consume: Callable[[int, str, Tensor], None], name: str, inputs: Tensor) -> None:
    for number, part in batch.by_sample(inputs):
        consume(number, name, part)


def _new_statistics(plan: LayerPlan, name: str, precision: Precision) -> InputStatistics:
    """Return empty statistics for one sample, of the kind that takes less memory."""
    module = plan.modules[name]
    groups, _, columns = plan.matrix_shapes[name]
    dtype = statistics_dtype(module)
    if plan.keeps_inputs(name):
        return StoredInputs(dtype)
    return HessianStatistics(groups, columns, dtype, module.weight.device, is_rounded=precision == "bfloat16")
