"""Means over images, and a test for whether two rows of a table differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spadelens.errors import InputError

_NUM_FLIPS = 10_000


@dataclass(frozen=True)
class PairedDifference:
    """What is gained on the same images.

    Attributes:
        mean: Of the differences.
        standard_error: Of that mean; None for a single image.
        p_value: Two-sided, of the paired permutation test.
        count: How many images there are.
    """

    mean: float
    standard_error: float | None
    p_value: float
    count: int


def standard_deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation, None for fewer than two values."""
    return float(np.std(np.asarray(values, dtype=np.float64), ddof=1)) if len(values) > 1 else None


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> PairedDifference:
    """Return the mean difference of two rows over the same images, tested by flipping signs at random.

    If neither row were better, each difference could as well have the other sign. The p-value is the fraction of 10,000
    random choices of signs, and of the one observed, whose mean is as far from zero.

    Raises:
        InputError: There are no images, or not as many in both rows.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise InputError(
            f"Cannot compare {len(ours)} images with {len(theirs)}: expected the same images, at least one."
        )
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    observed = abs(differences.mean())
    rng = np.random.default_rng(seed)
    flipped = rng.choice((-1.0, 1.0), size=(_NUM_FLIPS, len(differences))) @ differences / len(differences)
    rounding = 1e-12 * float(np.abs(differences).mean())
    num_as_far = int((np.abs(flipped) >= observed - rounding).sum())
    spread = standard_deviation(differences.tolist())
    return PairedDifference(
        mean=float(differences.mean()),
        standard_error=None if spread is None else spread / math.sqrt(len(differences)),
        p_value=(1 + num_as_far) / (1 + _NUM_FLIPS),
        count=len(differences),
    )
