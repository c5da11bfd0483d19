"""The resolved settings of an extraction, from the arguments and the preset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from spadelens import defaults
from spadelens.errors import InputError
from spadelens.extraction.pipeline.accumulate import Precision, check_precision
from spadelens.extraction.presets import find_preset
from spadelens.kinds import Kind
from spadelens.progress import Progress, no_progress
from spadelens.schedules.schedule import Schedule
from spadelens.schedules.schedule_text import ScheduleLike, parse_schedule
from spadelens.solvers import Solver, parse_solver
from spadelens.views.photo_views import AugmentationLike
from spadelens.views.view_source import ViewSource, augmented_views, check_count


@dataclass(frozen=True)
class Request:
    """How traces are made; see `extract_trace`."""

    solver: Solver
    schedule: Schedule
    augmentation: AugmentationLike
    num_views: int
    positions_per_column: int
    layers: Sequence[str] | None
    seed: int
    batch_size: int | None
    memory_budget_mib: int | None
    precision: Precision
    progress: Progress
    preset: str
    kind: Kind

    def source(self, sample: Tensor) -> ViewSource:
        """Return the views of a sample."""
        return augmented_views(sample, self.augmentation, self.num_views, self.seed)


def make_request(
    *,
    preset: str = defaults.PRESET,
    kind: Kind = "photo",
    augmentation: AugmentationLike | None = None,
    solver: str | Solver | None = None,
    schedule: ScheduleLike | None = None,
    layers: Sequence[str] | None = None,
    num_views: int | None = None,
    positions_per_column: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    memory_budget_mib: int | None = None,
    precision: Precision = "float32",
    progress: Progress | None = None,
) -> Request:
    """Return the resolved settings for the arguments of `extract_trace`, and the kind of its sample."""
    chosen = find_preset(preset).of(kind)
    solver = chosen.solver if solver is None else solver
    parsed_solver = parse_solver(solver) if isinstance(solver, str) else solver
    if not isinstance(parsed_solver, Solver):
        raise InputError(f"Cannot use {solver!r} as a solver: expected the name of a solver or a Solver.")
    if batch_size is not None:
        check_count(batch_size, "batch_size", at_least=1)
    if memory_budget_mib is not None:
        check_count(memory_budget_mib, "memory_budget_mib", at_least=1)
    if positions_per_column is not None:
        check_count(positions_per_column, "positions_per_column", at_least=0)
    return Request(
        solver=parsed_solver,
        schedule=parse_schedule(chosen.schedule if schedule is None else schedule),
        augmentation=chosen.augmentation if augmentation is None else augmentation,
        num_views=chosen.num_views if num_views is None else num_views,
        positions_per_column=chosen.positions_per_column if positions_per_column is None else positions_per_column,
        layers=layers,
        seed=seed,
        batch_size=batch_size,
        memory_budget_mib=memory_budget_mib,
        precision=check_precision(precision),
        progress=progress or no_progress,
        preset=preset,
        kind=kind,
    )
