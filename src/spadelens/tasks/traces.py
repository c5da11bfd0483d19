"""How a command makes traces: its options -> settings -> arguments, a report, and the options again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spadelens.errors import InputError
from spadelens.extraction.pipeline.accumulate import Precision, check_precision
from spadelens.extraction.presets import Preset
from spadelens.extraction.report import TraceReport
from spadelens.models import LoadedModel
from spadelens.schedules.schedule import Schedule
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.settings import settings_of
from spadelens.solvers import Solver, parse_solver, solver_name
from spadelens.views.augmentation import Augmentation
from spadelens.views.photo_views import parse_augmentation


@dataclass(frozen=True)
class TraceSettings:
    """How traces are made; see `extract_trace`. The target is as the user put it."""

    preset: str
    solver: Solver
    schedule: Schedule
    augmentation: str
    num_views: int
    positions_per_column: int
    seed: int
    target: str | None = None
    layers: tuple[str, ...] = ()
    batch_size: int | None = None
    memory_budget_mib: int | None = None
    precision: Precision = "float32"

    def arguments(self, loaded: LoadedModel) -> dict[str, Any]:
        """Return the arguments of `extract_trace` and `extract_ensemble` for photos, but for target and progress."""
        preprocessing = loaded.preprocessing
        return self.arguments_with(parse_augmentation(self.augmentation, preprocessing.mean, preprocessing.std))

    def arguments_with(self, augmentation: Augmentation) -> dict[str, Any]:
        """Return the arguments of `extract_trace` and `extract_ensemble`, but for the target and the progress."""
        return {
            "preset": self.preset,
            "augmentation": augmentation,
            "solver": self.solver,
            "schedule": self.schedule,
            "layers": self.layers or None,
            "num_views": self.num_views,
            "positions_per_column": self.positions_per_column,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "memory_budget_mib": self.memory_budget_mib,
            "precision": self.precision,
        }

    def described(self, report: TraceReport) -> dict[str, Any]:
        """Return the settings for `report.json`, given the report of any trace that was made with them."""
        return {
            "preset": self.preset,
            "solver": solver_name(self.solver),
            "solver_settings": settings_of(self.solver),
            "schedule": self.schedule.spec(),
            "layers": list(self.layers) or None,
            "augmentation": report.settings["augmentation"],
            "num_views": self.num_views,
            "positions_per_column": self.positions_per_column,
            "precision": self.precision,
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    def options(self) -> dict[str, Any]:
        """Return the options of the command line that stand for the settings; --layers aside, which is repeated."""
        return {
            "--preset": self.preset,
            "--solver": solver_name(self.solver),
            "--schedule": self.schedule.spec(),
            "--augmentation": self.augmentation,
            "--views": self.num_views,
            "--positions-per-column": self.positions_per_column,
            "--seed": self.seed,
            "--batch-size": self.batch_size,
            "--memory-budget": self.memory_budget_mib,
            "--precision": self.precision,
        }


def read_trace_settings(
    preset: str,
    chosen: Preset,
    *,
    solver: str | None = None,
    schedule: str | None = None,
    augmentation: str | None = None,
    views: int | None = None,
    positions_per_column: int | None = None,
    seed: int = 0,
    target: str | None = None,
    layers: tuple[str, ...] = (),
    batch_size: int | None = None,
    memory_budget: int | None = None,
    precision: str = "float32",
) -> TraceSettings:
    """Return the settings that the options of a command stand for, as `trace_options` reads them.

    What is not given is that of the preset `chosen`, of which `preset` is the name.

    Raises:
        InputError: An option is out of range, or names what there is not.
    """
    augmentation = chosen.augmentation if augmentation is None else augmentation
    parse_augmentation(augmentation)
    if target is not None and not target.strip():
        raise InputError("Cannot explain a class without a name: --target is empty.")
    return TraceSettings(
        preset=preset,
        solver=parse_solver(chosen.solver if solver is None else solver),
        schedule=parse_schedule(chosen.schedule if schedule is None else schedule),
        augmentation=augmentation,
        num_views=chosen.num_views if views is None else views,
        positions_per_column=chosen.positions_per_column if positions_per_column is None else positions_per_column,
        seed=seed,
        target=target,
        layers=layers,
        batch_size=batch_size,
        memory_budget_mib=memory_budget,
        precision=check_precision(precision),
    )


def spell_command(words: Sequence[str], options: Mapping[str, Any], traces: TraceSettings, trust: bool) -> str:
    """Return the command that reproduces a run, with every option that has a value."""
    every = {**options, **traces.options()}
    spelled = [str(part) for option, value in every.items() if value is not None for part in (option, value)]
    patterns = [part for pattern in traces.layers for part in ("--layers", pattern)]
    return shlex.join(["spadelens", *words, *spelled, *patterns, *(["--trust"] if trust else [])])
