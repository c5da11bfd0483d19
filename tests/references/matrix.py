"""Every attribution method on a small instance of every architecture."""

import re
from collections.abc import Iterator

from references.architectures import build
from spadelens.attribution.diagnosis import MethodDiagnosis, diagnose_method
from spadelens.methods.registry import METHODS
from spadelens.settings import parse_configured

SETTINGS = {"smoothgrad": "num_samples=8", "gradient_shap": "num_samples=16", "lime": "num_samples=128"}
"""What keeps methods that average over draws affordable here."""


def diagnose(architecture: str) -> Iterator[tuple[str, MethodDiagnosis]]:
    """Yield each method with the verdict on it."""
    model, sample = build(architecture)
    for name in METHODS:
        spec = f"{name}:{SETTINGS[name]}" if name in SETTINGS else name
        yield name, diagnose_method(model, sample, parse_configured("method", spec, METHODS))


def kind_of_reason(reason: str) -> str:
    """Return a reason without the figures of one case, so that the same reason has one note."""
    general = re.sub(r"The method '\w+'", "The method", reason)
    first = reason.split(": ")[0] if "%" in reason or "similarity" in reason else reason
    first = "".join("" if character.isdigit() else character for character in first) if "%" in first else first
    known = {
        "The values miss": "The sum of the values misses the change in score by more than the method allows.",
        "The linear model": "The linear model explains less than a tenth of the scores' variance.",
        "With random weights": "With random weights in the last layer, the map stays the same.",
        "The map is zero": "The map is zero everywhere.",
    }
    return next((text for start, text in known.items() if first.startswith(start)), general)
