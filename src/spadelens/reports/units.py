"""Maps of texts and rows for the HTML page: colored tokens, and bars to the left and right of zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

UNIT_NOUNS: Mapping[str, str] = MappingProxyType({"photo": "pixel", "text": "token", "row": "feature"})
MOST_BARS = 30
_SIDES = ("original", "trace")
_LEAST_SHOWN = 0.02  # fraction of the largest value; fainter values get no color
_LEAST_DISAGREEING = 0.1  # fraction of the largest value of both maps above which a difference in sign is reported
_UNSEEN = "\N{MIDDLE DOT}"  # stands for a token that does not correspond to a piece of the text


@dataclass(frozen=True)
class ShownUnit:
    """A token or a feature as a page shows it.

    Attributes:
        before: The spaces before it.
        text: What it is called.
        is_special: Whether it is a token that was added around the text.
        is_unknown: Whether the model did not read it, because it is not in its vocabulary.
        raw: The raw value of a feature; None for tokens.
        values: Side ('original', 'trace', or 'shown' for the finding) -> the value that is drawn.
        strengths: Side -> how large that is beside the largest of the map, in [-1, 1].
        is_carrying: Whether it belongs to what the prediction rests on.
    """

    before: str
    text: str
    is_special: bool
    is_unknown: bool
    raw: float | None
    values: Mapping[str, float]
    strengths: Mapping[str, float]
    is_carrying: bool

    def role(self, side: str) -> str:
        """Return whether the unit is 'for' the class, 'against' it or 'neutral'."""
        strength = self.strengths[side]
        return "neutral" if abs(strength) < _LEAST_SHOWN else "for" if strength > 0 else "against"


def unit_context(sample: Mapping[str, Any], kind: str, is_signed: bool) -> dict[str, Any]:
    """Return what the template shows of the maps of a text or a row, given its part of the report.

    Each map is scaled by its own largest value, special tokens left out unless there is nothing else. The features of
    a row are in descending order of the larger of both sides.
    """
    shown = _shown_units(sample, "signed" if is_signed else "absolute")
    by_size = sorted(shown, key=lambda unit: -max(abs(unit.strengths[side]) for side in _SIDES))
    whole = "".join(unit.before + unit.text for unit in shown if not unit.is_special)
    return {
        "units": shown,
        "bars": by_size[:MOST_BARS] if kind == "row" else [],
        "is_signed": is_signed,
        "unknown": [unit.text for unit in shown if unit.is_unknown],
        "disagreeing": [unit for unit in by_size if is_signed and _disagrees(unit)],
        "summary": whole.strip() if kind == "text" else ", ".join(unit.text for unit in by_size[:3]),
    }


def _shown_units(sample: Mapping[str, Any], reduced: str) -> list[ShownUnit]:
    map_values = sample["map_values"]
    carrying = set(sample["finding"]["units"]) if sample["finding"]["is_carried"] else set()
    counted = [unit for unit in map_values if not unit["is_special"]] or map_values
    drawn = [
        {side: unit[side][reduced] for side in _SIDES} | {"shown": value}
        for unit, value in zip(map_values, sample["finding"]["values"], strict=True)
    ]
    sides = (*_SIDES, "shown")
    largest = {
        side: max(abs(values[side]) for unit, values in zip(map_values, drawn, strict=True) if unit in counted)
        for side in sides
    }
    shown = []
    for number, (unit, values) in enumerate(zip(map_values, drawn, strict=True)):
        strengths = {side: _strength(values[side], largest[side]) for side in sides}
        stripped = unit["name"].lstrip()
        before = unit["name"][: len(unit["name"]) - len(stripped)]
        flags = unit["is_special"], unit["is_unknown"]
        named = before, stripped or _UNSEEN, *flags, unit["value"]
        shown.append(ShownUnit(*named, values, strengths, number in carrying))
    return shown


def _disagrees(unit: ShownUnit) -> bool:
    """Return whether a unit speaks for the class in one map and against it in the other."""
    original, trace = (unit.strengths[side] for side in _SIDES)
    return not unit.is_special and original * trace < 0 and min(abs(original), abs(trace)) >= _LEAST_DISAGREEING


def _strength(value: float, largest: float) -> float:
    return max(-1.0, min(1.0, value / largest)) if largest > 0 else 0.0
