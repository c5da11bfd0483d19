"""What every augmentation is: `Augmentation`, and the check of its settings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from spadelens.errors import InputError


class Augmentation(ABC):
    """Makes views of a sample."""

    max_views: int | None = None  # how many views differ, None for any number

    @abstractmethod
    def views(self, sample: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return one view of `sample` for each seed, `[len(seeds), *sample.shape]`.

        The sample is a photo `[C, H, W]`, a text `[tokens, features]` or a row of a table `[features]`.
        """

    @abstractmethod
    def spec(self) -> str:
        """Return a short description for reports."""


def check_range(value: float, name: str, low: float, high: float) -> None:
    """Reject a setting that does not lie between `low` and `high`."""
    if not low <= value <= high:
        raise InputError(f"Cannot use {name}={value!r}: expected a number from {low:g} to {high:g}.")
