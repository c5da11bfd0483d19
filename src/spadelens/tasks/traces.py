"""How a command makes traces: its options, completed by the preset, and the command that reproduces them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from spadelens.extraction.options import TraceOptions
from spadelens.extraction.pipeline.accumulate import check_precision
from spadelens.extraction.presets import Preset
from spadelens.models import LoadedModel
from spadelens.prediction import check_outputs
from spadelens.schedules.schedule_text import parse_schedule
from spadelens.solvers import parse_solver
from spadelens.views.photo_views import parse_augmentation


def completed(options: TraceOptions, preset: Preset, name: str) -> TraceOptions:
    """Return the options of a command with what is not given taken from `preset`, and every text checked.

    Raises:
        InputError: An option is out of range; UnknownNameError: it names something that does not exist.
        ScheduleError: There is no such schedule.
    """
    filled = options.filled(preset, name)
    assert isinstance(filled.solver, str)
    assert isinstance(filled.augmentation, str)
    assert filled.schedule is not None
    parse_augmentation(filled.augmentation)
    check_precision(filled.precision)
    check_outputs(filled.outputs)
    return replace(filled, solver=parse_solver(filled.solver), schedule=parse_schedule(filled.schedule))


def for_photos(options: TraceOptions, loaded: LoadedModel) -> TraceOptions:
    """Return options whose views of photos know how the model's photos are normalized."""
    assert isinstance(options.augmentation, str)
    preprocessing = loaded.preprocessing
    return replace(
        options, augmentation=parse_augmentation(options.augmentation, preprocessing.mean, preprocessing.std)
    )


def spell_command(words: Sequence[str], spelled: Mapping[str, Any], options: TraceOptions, trust: bool) -> str:
    """Return the command that reproduces a run, with every option that has a value."""
    first = [str(part) for option, value in spelled.items() if value is not None for part in (option, value)]
    return shlex.join(["spadelens", *words, *first, *options.words(), *(["--trust"] if trust else [])])
