"""Schedules as users specify them: numbers, tables, strings, names and files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TypeAlias

from spadelens.errors import ScheduleError, suggest
from spadelens.files import read_json
from spadelens.schedules.schedule import LateLayers, Schedule, SearchedSchedule, Table, TableWithFallback, Uniform
from spadelens.settings import parse_configured
from spadelens.solvers.base import check_sparsity

ScheduleLike: TypeAlias = Schedule | float | str | Mapping[str, float]


def parse_schedule(schedule: ScheduleLike) -> Schedule:
    """Return the schedule described by a number, a table, a text or a JSON file.

    Texts are `auto`, `auto:threshold=0.8,start=0.3`, `0.9`, `late`, `late:SPARSITY`, `late:SPARSITY@START`, the name of
    a schedule that comes with the library, `PATTERN=SPARSITY,...`, or the path of a JSON file that holds a table. The
    prefix `guarded:` adds a fallback to a table, for samples whose prediction it would change; files written by
    `spadelens tune` have one.

    Raises:
        ScheduleError: The argument does not describe a schedule.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if isinstance(schedule, Mapping):
        return _table(schedule)
    if not isinstance(schedule, str):
        check_sparsity(schedule, "for every layer")
        return Uniform(float(schedule))
    return _parse_text(schedule.strip())


def _parse_text(text: str) -> Schedule:
    named = _named_schedules()
    if text in named:
        return _read_table(named[text])
    if text.partition(":")[0] == "auto":
        return parse_configured("schedule", text, {"auto": SearchedSchedule})
    if text.partition(":")[0] == "late":
        return _parse_late(text)
    if text.partition(":")[0] == "guarded":
        table = _parse_text(text.partition(":")[2].strip())
        return table if isinstance(table, TableWithFallback) else TableWithFallback(_check_table(table))
    if "=" in text:
        return Table(tuple(_parse_rule(item) for item in text.split(",") if item.strip()))
    if text.endswith(".json"):
        return _read_table(Path(text))
    try:
        return Uniform(float(text))
    except ValueError as error:
        if isinstance(error, ScheduleError):
            raise
        raise ScheduleError(
            f"Unknown schedule {text!r}: expected a number in [0, 1), PATTERN=SPARSITY, a .json file, or a name."
            f"{suggest(text, ['auto', 'late', *named])}"
        ) from None


def _named_schedules() -> dict[str, Traversable]:
    """Return the schedules that come with the library: published ones, and those that were tuned."""
    folder = resources.files("spadelens.schedules") / "shipped"
    return {file.name.removesuffix(".json"): file for file in folder.iterdir() if file.name.endswith(".json")}


def _table(sparsities: Mapping[str, float]) -> Table:
    for pattern, sparsity in sparsities.items():
        check_sparsity(sparsity, f"for {pattern!r}")
    return Table(tuple((pattern, float(sparsity)) for pattern, sparsity in sparsities.items()))


def _check_table(schedule: Schedule) -> Table:
    if not isinstance(schedule, Table):
        raise ScheduleError(
            f"Cannot add a fallback to the schedule {schedule.spec()!r}: expected PATTERN=SPARSITY or a .json file."
        )
    return schedule


def _parse_late(text: str) -> LateLayers:
    _, _, numbers = text.partition(":")
    sparsity, _, start = numbers.partition("@")
    try:
        return LateLayers(
            sparsity=float(sparsity) if sparsity else LateLayers.sparsity,
            start=float(start) if start else LateLayers.start,
        )
    except ValueError as error:
        if isinstance(error, ScheduleError):
            raise
        raise ScheduleError(
            f"Cannot read the schedule {text!r}: expected late:SPARSITY or late:SPARSITY@START."
        ) from None


def _parse_rule(item: str) -> tuple[str, float]:
    pattern, _, number = item.partition("=")
    try:
        return pattern.strip(), float(number)
    except ValueError:
        raise ScheduleError(
            f"Cannot read {item.strip()!r} in the schedule: expected PATTERN=SPARSITY, such as 'layer4.*=0.9'."
        ) from None


def _read_table(path: Traversable) -> Table | TableWithFallback:
    try:
        table = read_json(path) if isinstance(path, Path) else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScheduleError(f"Cannot read the schedule file {str(path)!r}: {error}") from error
    if isinstance(table, dict) and isinstance(table.get("sparsities"), dict):  # as `spadelens tune` writes it
        return TableWithFallback(_table(table["sparsities"]))
    if not isinstance(table, dict):
        raise ScheduleError(f"Cannot use the schedule file {str(path)!r}: expected a JSON object of pattern: sparsity.")
    return _table(table)
