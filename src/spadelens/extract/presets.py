"""Settings that go together, by name; docs/evidence.md has the measurements that chose them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from spadelens.errors import InputError, UnknownNameError


@dataclass(frozen=True)
class Preset:
    """How a trace is made where the user says nothing else.

    Attributes:
        solver: As in `parse_solver`.
        schedule: As in `parse_schedule`.
        augmentation: As in `parse_augmentation`.
        num_views: How many views are made, the sample included.
        positions_per_column: At most so many positions for each column of a layer; 0 for all of them.
        description: For people.
        members: For an ensemble of traces, the sparsities of those beside the one that the schedule chooses; see
            `extract_ensemble`. Empty where a single trace is made.
    """

    solver: str
    schedule: str
    augmentation: str
    num_views: int
    positions_per_column: int
    description: str
    members: tuple[float, ...] = ()


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "instant": Preset("wanda", "auto:max_error=0.05,levels=0.5/0.8,max_trials=3", "noise", 1, 1, "for first looks"),
        "fast": Preset(
            "admm:num_stages=2,num_iterations=4,num_exchanges=0",
            "auto:levels=0.5/0.85",
            "noise",
            1,
            1,
            "for many photos",
        ),
        "balanced": Preset("auto", "auto", "noise", 4, 2, "the default of a single trace"),
        "ensemble": Preset("auto", "auto", "noise", 4, 2, "explain's default", (0.5, 0.7, 0.8, 0.9)),
        "paper": Preset("obc:unit=kernel", "auto", "paper", 1024, 0, "SPADE as published"),
        "paper-fast": Preset("sparsegpt:unit=kernel", "auto", "paper", 1024, 0, "FastSPADE as published"),
    }
)


def find_preset(name: str) -> Preset:
    """Return the preset `name`.

    Raises:
        UnknownNameError: There is none of that name; InputError: it is no text.
    """
    if not isinstance(name, str):
        raise InputError(f"Cannot use {name!r} as a preset: expected a name.")
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
