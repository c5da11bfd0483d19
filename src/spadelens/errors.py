"""Every exception of the library.

    SpadeError
    ├── InputError (ValueError)          an argument that is out of range or of the wrong shape
    │   ├── UnknownNameError             a name that does not exist; suggests the nearest one
    │   ├── PhotoError                   a file that cannot be read as a picture
    │   ├── ModelSpecError               a model spec that does not lead to a model
    │   └── ScheduleError                a sparsity or a layer pattern that cannot be used
    ├── ModelOutputError (ValueError)    a model that returns something other than finite class scores
    ├── NothingToPruneError (ValueError) a model without a layer that may be pruned
    ├── SolverError (ArithmeticError)    a layer that could not be solved
    ├── AttributionError (ArithmeticError)  a method without a finite answer on this model
    ├── VisualizationError (ArithmeticError)  a unit that nothing makes respond, or that gives no finite numbers
    ├── TraceFormatError (ValueError)    a trace file that is damaged or of another format
    ├── TraceMismatchError (ValueError)  a trace and a model that do not belong together
    ├── DeviceError (RuntimeError)       a device that is not there
    └── OutputError (OSError)            a place that cannot be written

A warning of the library is a `SampleSizeWarning` (UserWarning): a photo that has not the size that the model expects.

Each message is one or two sentences: what could not be done, what was expected and what came, what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from spadelens.plain_text import printable


class SpadeError(Exception):
    """Base of every exception that this library raises on purpose; its message is always one line."""

    def __init__(self, message: str) -> None:
        """Fold line breaks and replace control characters, which quoted messages and names may bring."""
        super().__init__(printable(" ".join(message.split())))


class InputError(SpadeError, ValueError):
    """An argument is out of range or of the wrong shape."""


class UnknownNameError(InputError):
    """A name does not exist; the message suggests the nearest one that does."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        """Describe the unknown `name` of a `kind` ('method', 'solver', ...) against the `known` ones."""
        super().__init__(f"Unknown {kind} {name!r}.{suggest(name, known)}")


class PhotoError(InputError):
    """A file cannot be read as a picture."""


class ModelSpecError(InputError):
    """A model spec does not lead to a model."""


class ScheduleError(InputError):
    """A sparsity or a layer pattern cannot be used."""


class ModelOutputError(SpadeError, ValueError):
    """A model returned something other than finite class scores `[batch, classes]`."""


class NothingToPruneError(SpadeError, ValueError):
    """A model has no layer that may be pruned."""


class SolverError(SpadeError, ArithmeticError):
    """A layer could not be solved."""


class AttributionError(SpadeError, ArithmeticError):
    """An attribution method has no finite answer on this model and sample."""


class VisualizationError(SpadeError, ArithmeticError):
    """A unit cannot be visualized: no image makes it respond, or its values are not finite."""


class TraceFormatError(SpadeError, ValueError):
    """A trace file is damaged or has a format that this version cannot read."""


class TraceMismatchError(SpadeError, ValueError):
    """A trace and a model do not belong together."""


class DeviceError(SpadeError, RuntimeError):
    """A device was asked for that is not there."""


class OutputError(SpadeError, OSError):
    """A result cannot be written where it should go."""


class SampleSizeWarning(UserWarning):
    """A photo has not the size that the model is known to expect."""


def suggest(name: str, known: Iterable[str], most_listed: int = 12) -> str:
    """Return ' Did you mean ...?' for the nearest known names, or the list of all when none is near and it is short."""
    candidates = sorted({name for name in known if name})
    by_folded = {candidate.lower(): candidate for candidate in candidates}
    near = difflib.get_close_matches(name.lower(), by_folded, n=3, cutoff=0.6)
    if near:
        return " Did you mean " + " or ".join(repr(by_folded[match]) for match in near) + "?"
    if not candidates:
        return ""
    if not most_listed:
        return ""
    listed = ", ".join(candidates[:most_listed]) + (", ..." if len(candidates) > most_listed else "")
    return f" Known: {listed}."
