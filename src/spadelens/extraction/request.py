"""The resolved settings of an extraction, from the options, the preset and the kind of input."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from spadelens import defaults
from spadelens.errors import InputError
from spadelens.extraction.options import TraceOptions
from spadelens.extraction.pipeline.accumulate import Precision, check_precision
from spadelens.extraction.presets import find_preset
from spadelens.kinds import Kind
from spadelens.prediction import check_outputs
from spadelens.progress import Progress, no_progress
from spadelens.schedules.schedule import Schedule
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.solvers import Solver, parse_solver
from spadelens.views.photo_views import AugmentationLike
from spadelens.views.view_source import ViewSource, augmented_views


@dataclass(frozen=True)
class Request:
    """How traces are made; see `extract_trace`.

    Attributes:
        options: The options, those of the preset filled in.
        solver: What prunes a layer.
        schedule: How sparse each layer becomes.
        augmentation: What makes views.
        precision: Of captured inputs.
        kind: What the samples are.
        progress: Called as progress(stage, done, total); the stages are 'views', 'solve', 'search' and 'check'.
    """

    options: TraceOptions
    solver: Solver
    schedule: Schedule
    augmentation: AugmentationLike
    precision: Precision
    kind: Kind
    progress: Progress

    @property
    def preset(self) -> str:
        """The name of the preset."""
        assert self.options.preset is not None
        return self.options.preset

    def source(self, sample: Tensor) -> ViewSource:
        """Return the views of a sample."""
        assert self.options.num_views is not None
        return augmented_views(sample, self.augmentation, self.options.num_views, self.options.seed)


def make_request(
    options: TraceOptions, kind: Kind, progress: Progress | None = None, preset: str = defaults.PRESET
) -> Request:
    """Return the resolved settings for samples of a kind.

    Args:
        options: The options.
        kind: What the samples are.
        progress: What to call with progress.
        preset: The preset to use if the options name none.

    Raises:
        InputError: An option is out of range; UnknownNameError: there is no such preset, solver or setting.
        ScheduleError: There is no such schedule.
    """
    name = preset if options.preset is None else options.preset
    filled = options.filled(find_preset(name).of(kind), name)
    assert filled.solver is not None
    assert filled.schedule is not None
    assert filled.augmentation is not None
    check_outputs(filled.outputs)
    solver = parse_solver(filled.solver) if isinstance(filled.solver, str) else filled.solver
    if not isinstance(solver, Solver):
        raise InputError(f"Cannot use {filled.solver!r} as a solver: expected the name of a solver or a Solver.")
    schedule = parse_schedule(filled.schedule)
    return Request(
        options=replace(filled, solver=solver, schedule=schedule),
        solver=solver,
        schedule=schedule,
        augmentation=filled.augmentation,
        precision=check_precision(filled.precision),
        kind=kind,
        progress=progress or no_progress,
    )
