"""Every attribution method on a small instance of every architecture."""

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
