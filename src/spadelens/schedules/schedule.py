"""Schedules: which layers are pruned, and to which sparsity."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

from spadelens.errors import ScheduleError, UnknownNameError, suggest
from spadelens.settings import configured_name
from spadelens.solvers.base import check_sparsity

CRITERION_NAMES = ("probability", "prediction", "agreement", "insertion")


@dataclass(frozen=True)
class LayerInfo:
    """The properties of a layer that a schedule can use.

    Attributes:
        name: Its qualified name.
        is_convolution: Whether it is a convolution; otherwise it is linear.
        is_depthwise: Whether it is a convolution with one input channel per group.
    """

    name: str
    is_convolution: bool
    is_depthwise: bool


class Schedule(ABC):
    """Sets the sparsity of each layer that may be pruned: a fixed or a searched schedule."""

    @abstractmethod
    def spec(self) -> str:
        """Return the text that `parse_schedule` turns into this schedule."""


class FixedSchedule(Schedule):
    """A schedule whose sparsities do not depend on the sample."""

    @abstractmethod
    def sparsities(self, layers: Sequence[LayerInfo]) -> dict[str, float]:
        """Return layer name -> sparsity for `layers`, which come in the order in which the model calls them.

        Raises:
            ScheduleError: The schedule does not fit these layers.
        """


@final
@dataclass(frozen=True)
class Uniform(FixedSchedule):
    """The same sparsity for every layer that may be pruned."""

    sparsity: float

    def __post_init__(self) -> None:
        """Reject a sparsity outside [0, 1)."""
        check_sparsity(self.sparsity, "for every layer")

    def sparsities(self, layers: Sequence[LayerInfo]) -> dict[str, float]:
        """Return the same sparsity for all layers."""
        return {layer.name: self.sparsity for layer in layers}

    def spec(self) -> str:
        """Return the sparsity as text."""
        return repr(self.sparsity)


@final
@dataclass(frozen=True)
class LateLayers(FixedSchedule):
    """One sparsity for the later layers; earlier and depthwise layers are not pruned.

    Late layers have more superimposed features (section 4.2.1 of the paper), and pruning early or depthwise layers
    quickly changes the prediction. The defaults are conservative: on three networks, they kept at least 95% of the
    predictions. Prune more if your network allows it; `SearchedSchedule` finds out how much.

    Attributes:
        sparsity: The sparsity of each pruned layer.
        start: The fraction of the layers, in call order and without depthwise ones, that is not pruned.
    """

    sparsity: float = 0.5
    start: float = 0.9

    def __post_init__(self) -> None:
        """Reject numbers outside [0, 1)."""
        check_sparsity(self.sparsity, "for the late layers")
        _check_start(self.start)

    def sparsities(self, layers: Sequence[LayerInfo]) -> dict[str, float]:
        """Return the sparsity for the late layers and 0 for the others."""
        late = set(_late_layers(layers, self.start))
        return {layer.name: self.sparsity if layer.name in late else 0.0 for layer in layers}

    def spec(self) -> str:
        """Return `late:SPARSITY@START`."""
        return f"late:{self.sparsity!r}@{self.start!r}"


@final
@dataclass(frozen=True)
class Table(FixedSchedule):
    """Sparsities by name pattern; the last matching pattern applies, and a layer without one is not pruned.

    A pattern is a shell pattern (`*`, `?`, `[...]`) on the qualified name; it also matches everything below a module
    that it names: `layer4.2` matches `layer4.2.conv1`.
    """

    rules: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        """Reject an empty table and sparsities outside [0, 1)."""
        if not self.rules:
            raise ScheduleError("Cannot use an empty schedule: expected PATTERN=SPARSITY at least once.")
        for pattern, sparsity in self.rules:
            check_sparsity(sparsity, f"for {pattern!r}")

    def sparsities(self, layers: Sequence[LayerInfo]) -> dict[str, float]:
        """Return the sparsity of the last matching pattern for each layer."""
        names = [layer.name for layer in layers]
        found = dict.fromkeys(names, 0.0)
        for pattern, sparsity in self.rules:
            for name in matching_layers(pattern, names):
                found[name] = sparsity
        return found

    def spec(self) -> str:
        """Return `PATTERN=SPARSITY,...`."""
        return ",".join(f"{pattern}={sparsity!r}" for pattern, sparsity in self.rules)


@final
@dataclass(frozen=True)
class SearchedSchedule(Schedule):
    """A search, for each sample, for the sparsest trace that still keeps the prediction.

    Every layer is solved at several sparsities. A bound on the layers' errors then determines the sparsity of each
    layer: the highest whose error is within the bound. The search finds the largest bound at which the criterion still
    reaches the threshold.

    Attributes:
        criterion: 'probability' (of the explained class on the sample, over that of the original model), 'prediction'
            (the same class), 'agreement' (of predictions on held-out views), or 'insertion' (of the saliency map,
            judged by the original model, over that of the dense map). 'probability' and 'insertion' are 0 if the
            explained class was the most likely one and no longer is.
        threshold: The value that the criterion must reach.
        max_error: The largest bound on the errors of layers, regardless of the criterion: a trace with larger errors
            often reaches the same class in a different way.
        start: The fraction of the layers, in call order and without depthwise ones, that is not pruned.
        levels: The sparsities to try for each layer.
        max_trials: The maximum number of traces to try if one has been accepted by then.
    """

    criterion: str = "probability"
    threshold: float = 0.9
    max_error: float = 0.1
    start: float = 0.0
    levels: tuple[float, ...] = (0.5, 0.8, 0.9, 0.95)
    max_trials: int = 16

    def __post_init__(self) -> None:
        """Reject settings out of range."""
        if self.criterion not in CRITERION_NAMES:
            raise UnknownNameError("criterion", self.criterion, CRITERION_NAMES)
        if not (math.isfinite(self.threshold) and self.threshold > 0):
            raise ScheduleError(f"Cannot search with the threshold {self.threshold!r}: expected a number above zero.")
        if not self.max_error > 0:
            raise ScheduleError(f"Cannot search with max_error={self.max_error!r}: expected a number above zero.")
        if not self.levels:
            raise ScheduleError("Cannot search without levels: expected at least one sparsity.")
        for level in self.levels:
            check_sparsity(level, "as a level")
        _check_start(self.start)
        if self.max_trials < 1:
            raise ScheduleError(f"Cannot search with max_trials={self.max_trials!r}: expected at least 1.")

    def layers(self, layers: Sequence[LayerInfo]) -> list[str]:
        """Return the names of the layers whose sparsity is searched."""
        return _late_layers(layers, self.start)

    def spec(self) -> str:
        """Return `auto`, followed by the settings that differ from their defaults."""
        return configured_name(self, {"auto": SearchedSchedule})


@final
@dataclass(frozen=True)
class TableWithFallback(Schedule):
    """A table with fallback to lower sparsities if it would lose the prediction, as written by `spadelens tune`.

    A schedule that was tuned on some samples may change the predictions of others. Here, layers are solved at 50%, 75%
    and 100% of their sparsity in the table. If the full table does not keep the prediction of a sample, the largest
    bound on the layers' errors that keeps it is searched.

    Attributes:
        table: The sparsities to use if they keep the prediction.
    """

    table: Table

    FRACTIONS = (0.5, 0.75, 1.0)

    def levels(self, layers: Sequence[LayerInfo]) -> dict[str, tuple[float, ...]]:
        """Return layer name -> the sparsities at which it is solved.

        Raises:
            ScheduleError: The table does not fit these layers.
        """
        sparsities = self.table.sparsities(layers)
        return {
            name: tuple(fraction * sparsity for fraction in self.FRACTIONS) if sparsity else (0.0,)
            for name, sparsity in sparsities.items()
        }

    @property
    def search(self) -> SearchedSchedule:
        """The search to run: for the sparsest trace that keeps the prediction."""
        return SearchedSchedule(criterion="prediction", threshold=1.0, max_error=math.inf)

    def spec(self) -> str:
        """Return `guarded:`, followed by the table."""
        return f"guarded:{self.table.spec()}"


def _check_start(start: float) -> None:
    if not 0.0 <= start < 1.0:
        raise ScheduleError(f"Cannot start pruning at {start!r} of the layers: expected a number in [0, 1).")


def _late_layers(layers: Sequence[LayerInfo], start: float) -> list[str]:
    names = [layer.name for layer in layers if not layer.is_depthwise]
    return names[math.floor(len(names) * start) :]


def choose_layers(layers: Sequence[LayerInfo], patterns: Sequence[str] | None) -> list[LayerInfo]:
    """Return the layers that may be pruned: those that match a pattern, or all but the first convolution.

    Raises:
        ScheduleError: A pattern matches no layer.
    """
    if patterns is not None:
        if isinstance(patterns, str):
            raise ScheduleError(f"Cannot choose layers with the string {patterns!r}: expected a list of patterns.")
        names = [layer.name for layer in layers]
        matched = {name for pattern in patterns for name in matching_layers(pattern, names)}
        return [layer for layer in layers if layer.name in matched]
    first = next((layer for layer in layers if layer.is_convolution), None)
    return [layer for layer in layers if layer is not first]


def matching_layers(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that `pattern` matches.

    Raises:
        ScheduleError: The pattern matches none of them.
    """
    matched = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, pattern + ".*")]
    if not matched:
        parents = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
        raise ScheduleError(
            f"No layer that may be pruned matches the pattern {pattern!r}.{suggest(pattern, {*names, *parents})}"
        )
    return matched
