"""Settings that go together, by name; docs/evidence.md has the measurements that chose them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from spadelens.errors import InputError, UnknownNameError
from spadelens.kinds import Kind


@dataclass(frozen=True)
class Preset:
    """How a trace is made where the user says nothing else.

    Attributes:
        solver: As in `parse_solver`.
        schedule: As in `parse_schedule`.
        augmentation: As in `parse_augmentation`; of photos.
        num_views: How many views are made, the sample included; of photos.
        positions_per_column: At most so many positions for each column of a layer; 0 for all of them.
        description: For people.
        members: For an ensemble of traces, the sparsities of those beside the one that the schedule chooses; see
            `extract_ensemble`. Empty where a single trace is made.
        text_views: As `num_views`, of texts, which are shorter than a photo has places.
        row_views: As `num_views`, of rows of a table: each view is a single position.
    """

    solver: str
    schedule: str
    augmentation: str
    num_views: int
    positions_per_column: int
    description: str
    members: tuple[float, ...] = ()
    text_views: int = 32
    row_views: int = 64

    def of(self, kind: Kind) -> Preset:
        """Return the preset for samples of a kind: texts are masked, rows of a table get noise."""
        if kind == "text":
            return replace(self, augmentation="tokens", num_views=self.text_views)
        if kind == "row":
            return replace(self, augmentation="noise", num_views=self.row_views)
        return self


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "instant": Preset(
            "wanda",
            "auto:max_error=0.05,levels=0.5/0.8,max_trials=3",
            "noise",
            1,
            1,
            "for first looks",
            text_views=8,
            row_views=16,
        ),
        "fast": Preset(
            "admm:num_stages=2,num_iterations=4,num_exchanges=0",
            "auto:levels=0.5/0.85",
            "noise",
            1,
            1,
            "for many photos",
            text_views=8,
            row_views=16,
        ),
        "balanced": Preset("auto", "auto", "noise", 4, 2, "the default of a single trace"),
        "ensemble": Preset("auto", "auto", "noise", 4, 2, "explain's default", (0.5, 0.7, 0.8, 0.9)),
        "paper": Preset(
            "obc:unit=kernel", "auto", "paper", 1024, 0, "SPADE as published", text_views=1024, row_views=1024
        ),
        "paper-fast": Preset(
            "sparsegpt:unit=kernel", "auto", "paper", 1024, 0, "FastSPADE as published", text_views=1024, row_views=1024
        ),
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
