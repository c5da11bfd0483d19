"""Named combinations of settings; docs/evidence.md has the measurements behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from spadelens.errors import InputError, UnknownNameError
from spadelens.kinds import Kind


@dataclass(frozen=True)
class Preset:
    """Defaults for how a trace is made.

    Attributes:
        solver: As in `parse_solver`.
        schedule: As in `parse_schedule`.
        augmentation: As in `parse_augmentation`, for photos.
        num_views: The number of views of a photo, including the sample.
        positions_per_column: The maximum number of input positions per weight column of a layer; 0 for no limit.
        description: A short description for users.
        members: For an ensemble, the sparsities of the members besides the one that the schedule chooses; see
            `extract_ensemble`. Empty for a single trace.
        text_views: Like `num_views`, for texts, which have fewer positions than photos.
        row_views: Like `num_views`, for rows of a table, where each view is a single position.
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
        """Return the preset for a kind of sample: text views are masked, row views get noise."""
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
            "for a first look",
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
        "balanced": Preset("auto", "auto", "noise", 4, 2, "the default for a single trace"),
        "ensemble": Preset("auto", "auto", "noise", 4, 2, "the default of `spadelens explain`", (0.5, 0.7, 0.8, 0.9)),
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
        UnknownNameError: The preset does not exist.
        InputError: The name is not a string.
    """
    if not isinstance(name, str):
        raise InputError(f"Cannot use {name!r} as a preset: expected a name.")
    if name not in PRESETS:
        raise UnknownNameError("preset", name, PRESETS)
    return PRESETS[name]
