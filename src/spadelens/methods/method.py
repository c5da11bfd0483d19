"""The base class of attribution methods, `Method`, its result, and checks of settings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from spadelens.errors import InputError


@dataclass(frozen=True)
class Attribution:
    """The attribution of one input.

    Attributes:
        values: Signed, of the input's shape.
        convergence_delta: For methods that guarantee completeness, the deviation of the sum of the values from the
            difference between the scores of the input and the baseline; None for other methods.
        conservation: For layer-wise relevance propagation, the sum of the values divided by the score: 1 if nothing is
            lost; None for other methods, and if the score is 0.
        fit: For methods that fit a linear model to the scores, the share of their variance that it explains: 1 for a
            perfect fit, near or below 0 for an uninformative one. None for other methods, and if all scores are equal.
    """

    values: Tensor
    convergence_delta: float | None = None
    conservation: float | None = None
    fit: float | None = None


class Method(ABC):
    """An attribution method.

    Attributes:
        has_rules: Whether it has propagation rules of its own, which may misrepresent the model, unlike plain gradients
            or scores of modified inputs.
        reference: The method to compare it with to see whether its rules have an effect: 'gradient' for sensitivities,
            'input_x_gradient' for contributions; None for these two themselves and for methods without gradients.
        most_missed: The maximum deviation of the sum of the values from the change in score, as a fraction of it; None
            for a method that guarantees no sum.
    """

    has_rules: ClassVar[bool] = True
    reference: ClassVar[Literal["gradient", "input_x_gradient"] | None] = None
    most_missed: ClassVar[float | None] = None

    @abstractmethod
    def attribute(self, model: nn.Module, sample: Tensor, target: int) -> Attribution:
        """Return how much each value of `sample` contributes to the score of class `target`.

        The sample has a batch dimension of one; `inputs.kind.kind_of(model, sample[0])` says what kind of input it is.
        `model` is in evaluation mode, with gradients enabled.
        """

    def share(self, number: int, count: int) -> Method:
        """Return the method that model `number` of `count` runs if the mean of their maps is wanted.

        Methods that average over random draws share them out, so that the mean costs what one model would.
        """
        del number, count
        return self


def check_finite(method: Any, *names: str) -> None:
    """Reject settings of `method` that are not finite numbers."""
    for name in names:
        if not math.isfinite(getattr(method, name)):
            raise InputError(f"Cannot use {name}={getattr(method, name)!r}: expected a finite number.")


def check_noise(method: Any) -> None:
    """Reject a `noise_std` or a `seed` of `method` out of range."""
    check_finite(method, "noise_std")
    if method.noise_std < 0:
        raise InputError(f"Cannot use noise_std={method.noise_std!r}: expected 0 or more.")
    check_seed(method)


def check_seed(method: Any) -> None:
    """Reject a `seed` of `method` out of range."""
    if not 0 <= method.seed < 2**63:
        raise InputError(f"Cannot use seed={method.seed!r}: expected an integer from 0 to 2**63 - 1.")


def check_at_least_one(method: Any, *names: str) -> None:
    """Reject settings of `method` that are not integers of at least 1."""
    for name in names:
        value = getattr(method, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"Cannot use {name}={value!r}: expected an integer of at least 1.")
